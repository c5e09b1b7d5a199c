package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
)

// NATS, the client protocol in text. A subscription is acknowledged by the PONG to a PING sent behind it.
type nats struct {
	pongs int
	user  string
}

func (n *nats) open(dst []byte, user string) []byte {
	n.user = user
	dst = append(dst, "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true,\"lang\":\"go\",\"version\":\"1\"}\r\n"...)
	if user != "" {
		dst = fmt.Appendf(dst, "SUB user.%s 9\r\n", user)
	}
	return append(dst, "SUB answers."+n.inbox()+" 8\r\nPING\r\n"...)
}

func (n *nats) inbox() string { return fmt.Sprintf("%p", n) }

func (n *nats) subscribe(dst []byte, channel string) []byte {
	return fmt.Appendf(dst, "SUB %s 1\r\nPING\r\n", channel)
}

func (n *nats) register(dst []byte, procedure string) []byte {
	return fmt.Appendf(dst, "SUB %s 2\r\nPING\r\n", procedure)
}

func natsPub(dst []byte, subject, replyTo string, body []byte) []byte {
	dst = append(append(append(dst, "PUB "...), subject...), ' ')
	if replyTo != "" {
		dst = append(append(dst, replyTo...), ' ')
	}
	dst = append(strconv.AppendInt(dst, int64(len(body)), 10), "\r\n"...)
	return append(append(dst, body...), "\r\n"...)
}

func (n *nats) publish(dst []byte, channel string, body []byte) []byte {
	return natsPub(dst, channel, "", body)
}

func (n *nats) push(dst []byte, user string, body []byte) []byte {
	return natsPub(dst, "user."+user, "", body)
}

func (n *nats) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return natsPub(dst, procedure, "answers."+n.inbox(), body)
}

func (n *nats) reply(dst []byte, to *event, body []byte) []byte {
	return natsPub(dst, string(to.replyTo), "", body)
}

func (n *nats) parse(data []byte, ev *event) (int, error) {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return 0, nil
	}
	line := bytes.TrimSuffix(data[:end], []byte{'\r'})
	end++
	switch {
	case bytes.HasPrefix(line, []byte("MSG ")):
		last := bytes.LastIndexByte(line, ' ')
		size, err := strconv.Atoi(string(line[last+1:]))
		if err != nil {
			return 0, err
		}
		if len(data) < end+size+2 {
			return 0, nil
		}
		ev.body = data[end : end+size]
		ev.kind = delivery
		rest := line[4:last]
		rest = rest[bytes.IndexByte(rest, ' ')+1:] // sid, and where to answer
		switch rest[0] {
		case '8':
			ev.kind = response
		case '2':
			ev.kind, ev.replyTo = request, rest[bytes.IndexByte(rest, ' ')+1:]
		}
		return end + size + 2, nil
	case bytes.Equal(line, []byte("PONG")):
		ev.kind = ack
		if n.pongs == 0 {
			ev.kind = ready
		}
		n.pongs++
	case bytes.Equal(line, []byte("PING")):
		ev.answer = []byte("PONG\r\n")
	case bytes.HasPrefix(line, []byte("-ERR")):
		ev.kind, ev.body = failure, line
	}
	return end, nil
}

// MQTT 3.1.1, QoS 0.
type mqtt struct{}

func mqttLength(dst []byte, length int) []byte {
	for length > 127 {
		dst = append(dst, byte(length)|0x80)
		length >>= 7
	}
	return append(dst, byte(length))
}

func mqttText(dst []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(text))), text...)
}

func (m *mqtt) open(dst []byte, user string) []byte {
	// clean session, no keep alive, no client id
	dst = append(dst, 0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 0)
	if user != "" {
		dst = m.subscribe(dst, "user/"+user)
	}
	return dst
}

func (m *mqtt) subscribe(dst []byte, channel string) []byte {
	dst = append(dst, 0x82)
	dst = mqttLength(dst, 2+2+len(channel)+1)
	return append(mqttText(append(dst, 0, 1), channel), 0)
}

func (m *mqtt) register(dst []byte, procedure string) []byte { return m.subscribe(dst, procedure) }

func (m *mqtt) publish(dst []byte, channel string, body []byte) []byte {
	dst = mqttLength(append(dst, 0x30), 2+len(channel)+len(body))
	return append(mqttText(dst, channel), body...)
}

func (m *mqtt) push(dst []byte, user string, body []byte) []byte {
	return m.publish(dst, "user/"+user, body)
}

func (m *mqtt) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	panic("MQTT 3.1.1 has no calls")
}

func (m *mqtt) reply(dst []byte, to *event, body []byte) []byte { panic("MQTT 3.1.1 has no calls") }

func (m *mqtt) parse(data []byte, ev *event) (int, error) {
	length, shift, at := 0, 0, 1
	for {
		if at >= len(data) {
			return 0, nil
		}
		length |= int(data[at]&0x7F) << shift
		at++
		if data[at-1] < 0x80 {
			break
		}
		shift += 7
	}
	if len(data) < at+length {
		return 0, nil
	}
	switch data[0] >> 4 {
	case 2:
		ev.kind = ready
		if data[at+1] != 0 {
			ev.kind, ev.body = failure, []byte("CONNACK")
		}
	case 9:
		ev.kind = ack
	case 3:
		ev.kind = delivery
		ev.body = data[at+2+int(binary.BigEndian.Uint16(data[at:])) : at+length]
	}
	return at + length, nil
}

// WAMP over RawSocket with JSON. The body is a string.
type wamp struct {
	opened, joined bool
	user           string
}

func (w *wamp) open(dst []byte, user string) []byte {
	w.user = user
	return append(dst, 0x7F, 0xF1, 0, 0)
}

func (w *wamp) frame(dst []byte, format string, values ...any) []byte {
	return framed(dst, func(d []byte) []byte { return fmt.Appendf(d, format, values...) })
}

func (w *wamp) subscribe(dst []byte, channel string) []byte {
	return w.frame(dst, `[32,1,{},"%s"]`, channel)
}

func (w *wamp) register(dst []byte, procedure string) []byte {
	return w.frame(dst, `[64,1,{},"%s"]`, procedure)
}

func (w *wamp) publish(dst []byte, channel string, body []byte) []byte {
	return w.frame(dst, `[16,1,{},"%s",["%s"]]`, channel, body)
}

// push is a publication to a topic that only the user subscribes to: WAMP has no messages to one session.
func (w *wamp) push(dst []byte, user string, body []byte) []byte {
	return w.publish(dst, "bench.user."+user, body)
}

func (w *wamp) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return w.frame(dst, `[48,%d,{},"%s",["%s"]]`, seq, procedure, body)
}

func (w *wamp) reply(dst []byte, to *event, body []byte) []byte {
	return w.frame(dst, `[70,%d,{},["%s"]]`, to.seq, body)
}

func (w *wamp) parse(data []byte, ev *event) (int, error) {
	if len(data) < 4 {
		return 0, nil
	}
	if !w.opened {
		w.opened = true
		ev.answer = w.frame(nil, `[1,"bench",{"roles":{"caller":{},"callee":{},"publisher":{},"subscriber":{}}}]`)
		return 4, nil
	}
	end := 4 + int(binary.BigEndian.Uint32(data)&0xFFFFFF)
	if len(data) < end {
		return 0, nil
	}
	text := data[4:end]
	kind, next := number(text, 1)
	first, _ := number(text, next+1)
	ev.seq = uint32(first)
	if to := bytes.LastIndexByte(text, '"'); to > 0 {
		ev.body = text[bytes.LastIndexByte(text[:to], '"')+1 : to]
	}
	switch kind {
	case 2:
		ev.kind = ready
		if w.user != "" {
			ev.kind, ev.answer = nothing, w.subscribe(nil, "bench.user."+w.user)
		}
	case 33, 65:
		ev.kind = ack
		if w.user != "" && !w.joined {
			w.joined, ev.kind = true, ready
		}
	case 36:
		ev.kind = delivery
	case 68:
		ev.kind = request
	case 50:
		ev.kind = response
	case 3, 6, 8:
		ev.kind, ev.body = failure, text
	}
	return end, nil
}

func number(text []byte, at int) (value, next int) {
	for at < len(text) && text[at] >= '0' && text[at] <= '9' {
		value = value*10 + int(text[at]-'0')
		at++
	}
	return value, at
}

// Socket.IO 5 over Engine.IO 4 on a WebSocket; the server script of bench/peers knows these events.
type socketIO struct{}

func (s socketIO) event(dst []byte, name string, values ...string) []byte {
	text, _ := json.Marshal(append([]string{name}, values...))
	return append(append(dst, "42"...), text...)
}

func (s socketIO) open(dst []byte, user string) []byte {
	text, _ := json.Marshal(map[string]string{"user": user})
	return append(append(dst, "40"...), text...)
}

func (s socketIO) subscribe(dst []byte, channel string) []byte { return s.event(dst, "s", channel) }

func (s socketIO) register(dst []byte, procedure string) []byte { panic("not provided") }

func (s socketIO) publish(dst []byte, channel string, body []byte) []byte {
	return s.event(dst, "p", channel, string(body))
}

func (s socketIO) push(dst []byte, user string, body []byte) []byte {
	return s.event(dst, "p", "user."+user, string(body))
}

func (s socketIO) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	panic("not provided")
}

func (s socketIO) reply(dst []byte, to *event, body []byte) []byte { panic("not provided") }

func (s socketIO) parse(data []byte, ev *event) (int, error) { panic("only on a WebSocket") }

func (s socketIO) message(data []byte, ev *event) error {
	switch {
	case bytes.HasPrefix(data, []byte(`42["m","`)):
		ev.kind, ev.body = delivery, data[8:len(data)-2]
	case bytes.HasPrefix(data, []byte(`42["k"`)):
		ev.kind = ack
	case bytes.HasPrefix(data, []byte("40")):
		ev.kind = ready
	case bytes.Equal(data, []byte("2")):
		ev.answer = []byte("3")
	case bytes.HasPrefix(data, []byte("44")):
		ev.kind, ev.body = failure, data
	}
	return nil
}

// Topics on a bare WebSocket, as the socketify server of bench/peers speaks them: the first byte says what it is.
type topics struct{}

func (t topics) open(dst []byte, user string) []byte { return append(append(dst, 'U'), user...) }

func (t topics) subscribe(dst []byte, channel string) []byte {
	return append(append(dst, 'S'), channel...)
}

func (t topics) register(dst []byte, procedure string) []byte { panic("not provided") }

func (t topics) publish(dst []byte, channel string, body []byte) []byte {
	dst = append(append(dst, 'P', byte(len(channel))), channel...)
	return append(dst, body...)
}

func (t topics) push(dst []byte, user string, body []byte) []byte {
	return t.publish(dst, "user."+user, body)
}

func (t topics) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	panic("not provided")
}

func (t topics) reply(dst []byte, to *event, body []byte) []byte { panic("not provided") }

func (t topics) parse(data []byte, ev *event) (int, error) { panic("only on a WebSocket") }

func (t topics) message(data []byte, ev *event) error {
	ev.kind, ev.body = delivery, data
	if len(data) == 1 {
		ev.kind = ready
		if data[0] == 'K' {
			ev.kind = ack
		}
	}
	return nil
}
