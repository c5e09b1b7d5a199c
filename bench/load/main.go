// Load drives relay, and the servers it is compared with, and measures.
//
//	load -dialect relay -address tcp://127.0.0.1:8000 -workload fanout -connections 1000 -window 20 -seconds 3
//
// Dialects: relay (binary form; over tcp://, unix:// and ws://), relay-json, bare (an echo of relay's frames without a
// session), nats, mqtt, wamp (RawSocket, JSON), socketio and topics (over ws://), websocket (only the handshake).
//
// On standard output: one JSON object per line. {"mark":"open"} when everything is connected, {"mark":"begin"} and
// {"mark":"end"} around the measured time (read the server's processor time then), {"progress":...} once a second,
// and the result last. In the result latencies are in microseconds; cpu_s is what this process used in the measured
// time: where it is near that time, the generator and not the server is the limit.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

func emit(value any) {
	text, _ := json.Marshal(value)
	os.Stdout.Write(append(text, '\n'))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func dialects(name, token, address string) (func() dialect, error) {
	stream := len(address) < 5 || address[:5] != "ws://"
	switch name {
	case "relay", "bare", "websocket":
		messages := relayMessages{token: token, bare: name != "relay"}
		if stream {
			return func() dialect { return &relayStream{relayMessages: messages} }, nil
		}
		if name == "websocket" {
			return func() dialect { return handshakeOnly{messages} }, nil
		}
		return func() dialect { return messages.asMessages() }, nil
	case "relay-json":
		return func() dialect { return relayJSON{token: token, lines: stream} }, nil
	case "nats":
		return func() dialect { return &nats{} }, nil
	case "mqtt":
		return func() dialect { return &mqtt{} }, nil
	case "wamp":
		return func() dialect { return &wamp{} }, nil
	case "socketio":
		return func() dialect { return socketIO{} }, nil
	case "topics":
		return func() dialect { return topics{} }, nil
	}
	return nil, fmt.Errorf("there is no dialect %q", name)
}

// Only the handshake of a WebSocket: nothing is sent after it.
type handshakeOnly struct{ relayMessages }

func (h handshakeOnly) open(dst []byte, user string) []byte       { return nil }
func (h handshakeOnly) parse(data []byte, ev *event) (int, error) { panic("only on a WebSocket") }
func (r relayMessages) parse(data []byte, ev *event) (int, error) { panic("only on a WebSocket") }
func (r relayMessages) asMessages() dialect                       { return r }

func main() {
	r := &run{started: time.Now()}
	var (
		dialectName = flag.String("dialect", "relay", "what to speak")
		workload    = flag.String("workload", "echo", "echo, fanout, push, rpc, connect, idle, spread, put, etcd, store")
		token       = flag.String("token", "", "bearer token for hello")
		seconds     = flag.Float64("seconds", 3, "how long to measure")
		warmup      = flag.Float64("warmup", 1, "how long to run before")
		channels    = flag.Int("channels", 1000, "spread, store: number of channels")
	)
	flag.StringVar(&r.address, "address", "tcp://127.0.0.1:8000", "tcp://host:port, unix:///path, ws://host:port/path")
	flag.StringVar(&r.user, "user", "u", "what names of users begin with")
	flag.StringVar(&r.channel, "channel", "bench", "channel")
	flag.StringVar(&r.procedure, "procedure", "bench.echo", "procedure")
	flag.IntVar(&r.connections, "connections", 100, "connections, subscribers or pairs")
	flag.IntVar(&r.window, "window", 1, "in flight: per connection (echo) or in all")
	flag.IntVar(&r.payload, "payload", 128, "bytes of a body, at least 16")
	flag.Float64Var(&r.rate, "rate", 0, "open loop: so many a second, with intended times; 0: closed loop")
	flag.Parse()
	debug.SetGCPercent(400)
	r.body = make([]byte, max(r.payload, stampBytes))
	for i := range r.body {
		r.body[i] = 'x'
	}
	make, err := dialects(*dialectName, *token, r.address)
	if err != nil {
		fatal(err)
	}
	r.make = make
	switch *workload {
	case "echo":
		err = r.echo()
	case "fanout":
		err = r.fanOut()
	case "push":
		err = r.push()
	case "rpc":
		err = r.rpc()
	case "connect":
		err = r.connect()
	case "idle":
		err = r.idle()
	case "spread":
		err = r.spread(*channels)
	case "put":
		err = r.put()
	case "etcd":
		err = r.etcd()
	case "store":
		err = r.store(*channels)
	default:
		err = fmt.Errorf("there is no workload %q", *workload)
	}
	if err != nil {
		fatal(err)
	}
	emit(map[string]string{"mark": "open"})
	r.measure(*warmup, *seconds)
}

func (r *run) measure(warmup, seconds float64) {
	time.Sleep(time.Duration(warmup * float64(time.Second)))
	r.latency.reset()
	emit(map[string]string{"mark": "begin"})
	begin, cpu, count, sent := r.now(), cpuSeconds(), r.count.Load(), r.sent.Load()
	until := begin + time.Duration(seconds*float64(time.Second))
	for left := until - r.now(); left > 0; left = until - r.now() {
		time.Sleep(min(left, time.Second))
		took := (r.now() - begin).Seconds()
		emit(map[string]any{"progress": map[string]float64{"at_s": took, "rate": float64(r.count.Load()-count) / took}})
	}
	counted, took := r.count.Load()-count, (r.now() - begin).Seconds()
	emit(map[string]string{"mark": "end"})
	r.ending.Store(true)
	us := func(q float64) float64 { return float64(r.latency.percentile(q)) / 1000 }
	result := map[string]any{
		"count": counted, "seconds": took, "rate": float64(counted) / took, "sent": r.sent.Load() - sent,
		"errors": r.errors.Load(), "cpu_s": cpuSeconds() - cpu, "total": r.count.Load(),
		"latency_us": map[string]float64{
			"p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p999": us(0.999), "max": float64(r.latency.max) / 1000,
		},
		"histogram_ns": r.latency.sparse(),
	}
	if text, ok := r.firstError.Load().(string); ok {
		result["first_error"] = text
	}
	emit(result)
}
