package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// What is spoken inside of a WebSocket: dialects whose messages are kept apart by it.
type messageDialect interface {
	open(dst []byte, user string) []byte
	subscribe(dst []byte, channel string) []byte
	register(dst []byte, procedure string) []byte
	publish(dst []byte, channel string, body []byte) []byte
	push(dst []byte, user string, body []byte) []byte
	call(dst []byte, procedure string, seq uint32, body []byte) []byte
	reply(dst []byte, to *event, body []byte) []byte
	message(data []byte, ev *event) error
	parse(data []byte, ev *event) (int, error)
}

// A WebSocket's client side (RFC 6455): handshake, masked frames out, unmasked and unfragmented frames in.
type webSocket struct {
	messageDialect
	host, path  string
	opening     []byte // the inner dialect's first message, sent after the handshake
	upgraded    bool
	subprotocol string
	text        bool
	scratch     []byte
}

// No peer may depend on what the key is; a constant one costs the generator least and the server the usual.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

func (w *webSocket) frame(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch size := len(payload); {
	case size < 126:
		dst = append(dst, 0x80|byte(size))
	case size < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(size))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(size))
	}
	dst = append(dst, maskKey[:]...)
	at := len(dst)
	dst = append(dst, payload...)
	key := uint64(binary.LittleEndian.Uint32(maskKey[:]))
	key |= key << 32
	rest := dst[at:]
	for len(rest) >= 8 {
		binary.LittleEndian.PutUint64(rest, binary.LittleEndian.Uint64(rest)^key)
		rest = rest[8:]
	}
	for i := range rest {
		rest[i] ^= maskKey[i&3]
	}
	return dst
}

func (w *webSocket) wrap(dst []byte, build func([]byte) []byte) []byte {
	// Several goroutines may encode on one connection: no buffer is kept between calls.
	message := build(make([]byte, 0, 512))
	opcode := byte(2)
	if w.text {
		opcode = 1
	}
	return w.frame(dst, opcode, message)
}

func (w *webSocket) open(dst []byte, user string) []byte {
	switch inner := w.messageDialect.(type) {
	case relayJSON:
		w.subprotocol, w.text = "relay.v1.json", true
	case relayMessages:
		w.subprotocol = "relay.v1.bin"
		if inner.bare {
			w.subprotocol = ""
		}
	case socketIO:
		w.text = true
	}
	w.opening = w.messageDialect.open(nil, user)
	dst = fmt.Appendf(dst, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n", w.path, w.host)
	if w.subprotocol != "" {
		dst = fmt.Appendf(dst, "Sec-WebSocket-Protocol: %s\r\n", w.subprotocol)
	}
	return append(dst, "\r\n"...)
}

func (w *webSocket) subscribe(dst []byte, channel string) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.subscribe(d, channel) })
}

func (w *webSocket) register(dst []byte, procedure string) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.register(d, procedure) })
}

func (w *webSocket) publish(dst []byte, channel string, body []byte) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.publish(d, channel, body) })
}

func (w *webSocket) store(dst []byte, channel string, seq uint32, body []byte) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.(storer).store(d, channel, seq, body) })
}

func (w *webSocket) push(dst []byte, user string, body []byte) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.push(d, user, body) })
}

func (w *webSocket) call(dst []byte, procedure string, seq uint32, body []byte) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.call(d, procedure, seq, body) })
}

func (w *webSocket) reply(dst []byte, to *event, body []byte) []byte {
	return w.wrap(dst, func(d []byte) []byte { return w.messageDialect.reply(d, to, body) })
}

func (w *webSocket) parse(data []byte, ev *event) (int, error) {
	if !w.upgraded {
		return w.handshake(data, ev)
	}
	if len(data) < 2 {
		return 0, nil
	}
	at, size := 2, uint64(data[1]&0x7F)
	switch size {
	case 126:
		if len(data) < 4 {
			return 0, nil
		}
		at, size = 4, uint64(binary.BigEndian.Uint16(data[2:]))
	case 127:
		if len(data) < 10 {
			return 0, nil
		}
		at, size = 10, binary.BigEndian.Uint64(data[2:])
	}
	end := at + int(size)
	if len(data) < end {
		return 0, nil
	}
	payload := data[at:end]
	switch opcode := data[0] & 0x0F; opcode {
	case 1, 2:
		err := w.message(payload, ev)
		if ev.answer != nil {
			kind := byte(2)
			if w.text {
				kind = 1
			}
			ev.answer = w.frame(nil, kind, ev.answer)
		}
		return end, err
	case 8:
		return end, fmt.Errorf("the server closed the WebSocket: %q", payload)
	case 9:
		ev.answer = w.frame(nil, 10, payload)
	}
	return end, nil
}

func (w *webSocket) handshake(data []byte, ev *event) (int, error) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, nil
	}
	if !bytes.HasPrefix(data, []byte("HTTP/1.1 101")) {
		return 0, fmt.Errorf("the WebSocket was refused: %q", data[:end])
	}
	w.upgraded = true
	if len(w.opening) == 0 {
		ev.kind = ready
	} else {
		kind := byte(2)
		if w.text {
			kind = 1
		}
		ev.answer = w.frame(nil, kind, w.opening)
	}
	return end + 4, nil
}
