package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// What a server told us, in whatever protocol.
type eventKind int

const (
	nothing  eventKind = iota // to be ignored, or only something to answer
	ready                     // the session is open
	ack                       // a subscription or registration is made
	delivery                  // a publication or push; body
	request                   // somebody calls our procedure; body, and seq or replyTo
	response                  // an answer to our call; seq, body
	failure                   // the server refused something; body says what
)

type event struct {
	kind    eventKind
	seq     uint32
	body    []byte // valid until the next event
	replyTo []byte // likewise
	answer  []byte // to be sent back at once: pongs and steps of a handshake
}

// A dialect turns what a workload wants into bytes, and bytes into events. All methods append to dst.
type dialect interface {
	open(dst []byte, user string) []byte // the first bytes on a new connection
	subscribe(dst []byte, channel string) []byte
	register(dst []byte, procedure string) []byte
	publish(dst []byte, channel string, body []byte) []byte
	push(dst []byte, user string, body []byte) []byte
	call(dst []byte, procedure string, seq uint32, body []byte) []byte
	reply(dst []byte, to *event, body []byte) []byte
	// parse reads one event from data and returns the bytes used; 0: more is needed.
	parse(data []byte, ev *event) (int, error)
}

// A connection: blocking reads in one goroutine; writes from any.
type conn struct {
	net    net.Conn
	speak  dialect
	number int
	buffer []byte
	have   int // bytes of buffer that are filled
	at     int // bytes of them that are parsed
	out    []byte
	lock   sync.Mutex
	want   int // this workload's own: what it waits for
}

const bufferBytes, bufferBytesMax = 2048, 64 * 1024

// dial opens a connection to tcp://host:port, unix:///path, or ws://host:port/path and does the handshake.
func dial(address string, make func() dialect, user string, number int) (*conn, error) {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		return nil, fmt.Errorf("address %q has no scheme", address)
	}
	path := ""
	family := "tcp"
	switch scheme {
	case "unix":
		family = "unix"
	case "ws":
		rest, path, _ = strings.Cut(rest, "/")
	}
	raw, err := net.DialTimeout(family, rest, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &conn{net: raw, speak: make(), number: number, buffer: nil}
	if scheme == "ws" {
		inner := c.speak.(messageDialect)
		c.speak = &webSocket{messageDialect: inner, host: rest, path: "/" + path}
	}
	if err := c.send(c.speak.open(nil, user)); err != nil {
		raw.Close()
		return nil, err
	}
	if _, err := c.await(ready); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// send writes at once; safe for any number of goroutines.
func (c *conn) send(data []byte) error {
	c.lock.Lock()
	_, err := c.net.Write(data)
	c.lock.Unlock()
	return err
}

// abort closes with a reset, so that a storm of connections leaves no ports in TIME_WAIT.
func (c *conn) abort() {
	if tcp, ok := c.net.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.net.Close()
}

// await reads until an event of that kind came; before the workload begins.
func (c *conn) await(kind eventKind) (*event, error) {
	c.net.SetReadDeadline(time.Now().Add(20 * time.Second))
	defer c.net.SetReadDeadline(time.Time{})
	var ev event
	for {
		n, err := c.next(&ev)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if err := c.fill(); err != nil {
				return nil, err
			}
			continue
		}
		if ev.kind == kind {
			return &ev, nil
		}
		if ev.kind == failure {
			return nil, fmt.Errorf("refused: %s", ev.body)
		}
	}
}

// ask sends something that is acknowledged, and waits for that.
func (c *conn) ask(data []byte) error {
	if err := c.send(data); err != nil {
		return err
	}
	_, err := c.await(ack)
	return err
}

func (c *conn) next(ev *event) (int, error) {
	*ev = event{}
	if c.at == c.have {
		return 0, nil
	}
	n, err := c.speak.parse(c.buffer[c.at:c.have], ev)
	c.at += n
	if err == nil && ev.answer != nil {
		err = c.send(ev.answer)
	}
	return n, err
}

// fill reads once; what is not parsed yet moves to the front, and a buffer that was full grows.
func (c *conn) fill() error {
	if c.buffer == nil {
		c.buffer = make([]byte, bufferBytes)
	}
	if c.at > 0 {
		c.have = copy(c.buffer, c.buffer[c.at:c.have])
		c.at = 0
	}
	if c.have == len(c.buffer) {
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	}
	n, err := c.net.Read(c.buffer[c.have:])
	if n > 0 {
		full := c.have+n == len(c.buffer)
		c.have += n
		if full && len(c.buffer) < bufferBytesMax {
			c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
		}
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// run calls handle for each event until the connection ends; what handle appended to c.out is sent when everything
// that one read brought is handled. after (may be nil) is called then too, with the number of events.
func (c *conn) run(handle func(*conn, *event), after func(*conn, int)) error {
	var ev event
	for {
		count := 0
		for {
			n, err := c.next(&ev)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if ev.kind == failure {
				return fmt.Errorf("refused: %s", ev.body)
			}
			if ev.kind != nothing {
				count++
				handle(c, &ev)
			}
		}
		if len(c.out) > 0 {
			if err := c.send(c.out); err != nil {
				return err
			}
			c.out = c.out[:0]
		}
		if after != nil && count > 0 {
			after(c, count)
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}
