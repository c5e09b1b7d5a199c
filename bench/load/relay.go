package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// relay's binary form (docs/protocol.md section 2): as messages for a WebSocket, and with lengths on a stream. With
// bare set there is no session, and whatever comes back is taken as the answer: for a server that only echoes.
type relayMessages struct {
	token string
	bare  bool
}

const (
	kindHello, kindWelcome, kindPing, kindPong, kindGoodbye      = 1, 2, 3, 4, 5
	kindPush, kindPull, kindReply, kindError                     = 16, 17, 18, 19
	kindPublish, kindEvent, kindSubscribe, kindRegister          = 32, 33, 34, 48
	fieldUser                                               byte = 6
	codecRaw, codecText, codecJSON                               = 0, 1, 2
	headerBytes                                                  = 12
)

func appendFrame(dst []byte, kind, codec byte, seq uint32, name string, fields, body []byte) []byte {
	dst = append(dst, kind, codec, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, seq)
	dst = append(dst, byte(len(name)), 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(fields)))
	dst = append(dst, name...)
	dst = append(dst, fields...)
	return append(dst, body...)
}

func (r relayMessages) hello(user string) []byte {
	body := map[string]any{"version": "1.0"}
	if r.token != "" {
		body["token"] = r.token
	} else if user != "" {
		body["user"] = user
	}
	text, _ := json.Marshal(body)
	return text
}

func (r relayMessages) open(dst []byte, user string) []byte {
	return appendFrame(dst, kindHello, codecJSON, 0, "", nil, r.hello(user))
}

func (r relayMessages) subscribe(dst []byte, channel string) []byte {
	return appendFrame(dst, kindSubscribe, codecRaw, 1, channel, nil, nil)
}

func (r relayMessages) register(dst []byte, procedure string) []byte {
	return appendFrame(dst, kindRegister, codecRaw, 1, procedure, nil, nil)
}

func (r relayMessages) publish(dst []byte, channel string, body []byte) []byte {
	return appendFrame(dst, kindPublish, codecRaw, 0, channel, nil, body)
}

func (r relayMessages) store(dst []byte, channel string, seq uint32, body []byte) []byte {
	return appendFrame(dst, kindPublish, codecRaw, seq, channel, nil, body)
}

func (r relayMessages) push(dst []byte, user string, body []byte) []byte {
	fields := make([]byte, 0, 64)
	fields = append(fields, fieldUser)
	fields = binary.BigEndian.AppendUint16(fields, uint16(len(user)))
	fields = append(fields, user...)
	return appendFrame(dst, kindPush, codecRaw, 0, "m", fields, body)
}

func (r relayMessages) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return appendFrame(dst, kindPull, codecRaw, seq, procedure, nil, body)
}

func (r relayMessages) reply(dst []byte, to *event, body []byte) []byte {
	return appendFrame(dst, kindReply, codecRaw, to.seq, "", nil, body)
}

func (r relayMessages) message(data []byte, ev *event) error {
	if len(data) < headerBytes {
		return fmt.Errorf("a frame of %d bytes", len(data))
	}
	at := headerBytes + int(data[8]) + int(binary.BigEndian.Uint16(data[10:]))
	if at > len(data) {
		return fmt.Errorf("a frame that ends in its fields")
	}
	ev.seq = binary.BigEndian.Uint32(data[4:])
	ev.body = data[at:]
	kind := data[0]
	switch {
	case r.bare:
		ev.kind = response
	case kind == kindEvent || kind == kindPush:
		ev.kind = delivery
	case kind == kindPull:
		ev.kind = request
	case kind == kindReply && ev.seq == 1 && len(ev.body) == 0:
		ev.kind = ack // calls begin at seq 2
	case kind == kindReply:
		ev.kind = response
	case kind == kindWelcome:
		ev.kind = ready
	case kind == kindPing:
		ev.answer = appendFrame(nil, kindPong, codecRaw, ev.seq, "", nil, nil)
	case kind == kindGoodbye || kind == kindError:
		ev.kind = failure
	}
	return nil
}

// The same on a stream: the preface once, and a length before each frame.
type relayStream struct {
	relayMessages
	opened bool
}

// framed puts the length before what build appends.
func framed(dst []byte, build func([]byte) []byte) []byte {
	at := len(dst)
	dst = build(append(dst, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

func (r *relayStream) open(dst []byte, user string) []byte {
	if r.bare {
		return appendFrame(append(dst, 0, 0, 0, headerBytes), kindPing, codecRaw, 0, "", nil, nil)
	}
	dst = append(dst, 0xD2, 'R', 'L', 'Y')
	return framed(dst, func(d []byte) []byte { return r.relayMessages.open(d, user) })
}

func (r *relayStream) subscribe(dst []byte, channel string) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.subscribe(d, channel) })
}

func (r *relayStream) register(dst []byte, procedure string) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.register(d, procedure) })
}

func (r *relayStream) publish(dst []byte, channel string, body []byte) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.publish(d, channel, body) })
}

func (r *relayStream) push(dst []byte, user string, body []byte) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.push(d, user, body) })
}

func (r *relayStream) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.call(d, procedure, seq, body) })
}

func (r *relayStream) reply(dst []byte, to *event, body []byte) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.reply(d, to, body) })
}

func (r *relayStream) store(dst []byte, channel string, seq uint32, body []byte) []byte {
	return framed(dst, func(d []byte) []byte { return r.relayMessages.store(d, channel, seq, body) })
}

func (r *relayStream) parse(data []byte, ev *event) (int, error) {
	if len(data) < 4 {
		return 0, nil
	}
	end := 4 + int(binary.BigEndian.Uint32(data))
	if len(data) < end {
		return 0, nil
	}
	err := r.message(data[4:end], ev)
	if r.bare && !r.opened {
		r.opened = true
		ev.kind = ready
	}
	return end, err
}

// relay's JSON form, one object per line on a stream or one per message on a WebSocket. Bodies are text.
type relayJSON struct {
	token string
	lines bool
}

func (r relayJSON) object(dst []byte, fields map[string]any) []byte {
	text, _ := json.Marshal(fields)
	dst = append(dst, text...)
	if r.lines {
		dst = append(dst, '\n')
	}
	return dst
}

func (r relayJSON) open(dst []byte, user string) []byte {
	return r.object(dst, map[string]any{"kind": "hello", "body": json.RawMessage(relayMessages{token: r.token}.hello(user))})
}

func (r relayJSON) subscribe(dst []byte, channel string) []byte {
	return r.object(dst, map[string]any{"kind": "subscribe", "seq": 1, "name": channel})
}

func (r relayJSON) register(dst []byte, procedure string) []byte {
	return r.object(dst, map[string]any{"kind": "register", "seq": 1, "name": procedure})
}

func (r relayJSON) publish(dst []byte, channel string, body []byte) []byte {
	return r.object(dst, map[string]any{"kind": "publish", "name": channel, "text": string(body)})
}

func (r relayJSON) store(dst []byte, channel string, seq uint32, body []byte) []byte {
	return r.object(dst, map[string]any{"kind": "publish", "seq": seq, "name": channel, "text": string(body)})
}

func (r relayJSON) push(dst []byte, user string, body []byte) []byte {
	return r.object(dst, map[string]any{"kind": "push", "name": "m", "user": user, "text": string(body)})
}

func (r relayJSON) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return r.object(dst, map[string]any{"kind": "pull", "seq": seq, "name": procedure, "text": string(body)})
}

func (r relayJSON) reply(dst []byte, to *event, body []byte) []byte {
	return r.object(dst, map[string]any{"kind": "reply", "seq": to.seq, "text": string(body)})
}

func (r relayJSON) message(data []byte, ev *event) error {
	var frame struct {
		Kind string
		Seq  uint32
		Text string
		Data []byte
	}
	if err := json.Unmarshal(data, &frame); err != nil {
		return err
	}
	ev.seq, ev.body = frame.Seq, []byte(frame.Text)
	if frame.Data != nil {
		ev.body = frame.Data
	}
	switch frame.Kind {
	case "event", "push":
		ev.kind = delivery
	case "pull":
		ev.kind = request
	case "reply":
		ev.kind = response
		if frame.Seq == 1 && len(ev.body) == 0 {
			ev.kind = ack
		}
	case "welcome":
		ev.kind = ready
	case "ping":
		ev.answer = r.object(nil, map[string]any{"kind": "pong", "seq": frame.Seq})
	case "goodbye", "error":
		ev.kind, ev.body = failure, append([]byte(nil), data...)
	}
	return nil
}

func (r relayJSON) parse(data []byte, ev *event) (int, error) {
	for i, b := range data {
		if b == '\n' {
			return i + 1, r.message(data[:i], ev)
		}
	}
	return 0, nil
}
