package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A run: what was asked for, and what is counted while it goes.
type run struct {
	address, user, channel, procedure string
	make                              func() dialect
	connections, window, payload      int
	rate                              float64
	started                           time.Time
	count                             atomic.Int64 // deliveries, answers or connections
	sent                              atomic.Int64 // publications or calls
	errors                            atomic.Int64
	latency                           histogram
	firstError                        atomic.Value
	ending                            atomic.Bool
	body                              []byte
}

const stampBytes = 16

// stamp gives a body that begins with a time, in hexadecimal so that every protocol can carry it as text.
func (r *run) stamp(dst []byte, at time.Duration) []byte {
	const digits = "0123456789abcdef"
	value := uint64(at)
	dst = append(dst[:0], r.body...)
	for i := stampBytes - 1; i >= 0; i-- {
		dst[i] = digits[value&15]
		value >>= 4
	}
	return dst
}

func (r *run) now() time.Duration { return time.Since(r.started) }

// arrived adds the time since the stamp of body.
func (r *run) arrived(body []byte) {
	if len(body) < stampBytes {
		return
	}
	at, err := strconv.ParseUint(string(body[:stampBytes]), 16, 64)
	if err == nil {
		r.latency.add(int64(r.now()) - int64(at))
	}
}

func (r *run) fail(err error) {
	if !r.ending.Load() {
		r.errors.Add(1)
		r.firstError.CompareAndSwap(nil, err.Error())
	}
}

// open makes n connections, a few at a time, and lets prepare finish each; users are named by number.
func (r *run) open(n int, user string, prepare func(*conn) error) ([]*conn, error) {
	made := make([]*conn, n)
	var failed atomic.Value
	var waiting sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range made {
		waiting.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; waiting.Done() }()
			name := ""
			if user != "" {
				name = user + strconv.Itoa(i)
			}
			c, err := dial(r.address, r.make, name, i)
			if err == nil && prepare != nil {
				err = prepare(c)
			}
			if err != nil {
				failed.CompareAndSwap(nil, fmt.Errorf("connection %d: %w", i, err))
			}
			made[i] = c
		}()
	}
	waiting.Wait()
	if err, _ := failed.Load().(error); err != nil {
		return nil, err
	}
	return made, nil
}

func (r *run) serve(c *conn, handle func(*conn, *event), after func(*conn, int)) {
	if err := c.run(handle, after); err != nil {
		r.fail(err)
	}
}

// paced calls send for each intended time, rate times a second; late ones are sent at once, with their intended time.
func (r *run) paced(send func(number int, intended time.Duration)) {
	interval := float64(time.Second) / r.rate
	begin := r.now()
	for i := 0; !r.ending.Load(); i++ {
		intended := begin + time.Duration(float64(i)*interval)
		for wait := intended - r.now(); wait > 0; wait = intended - r.now() {
			// The runtime's timers are rounded to a millisecond when nothing else goes on.
			pause := syscall.NsecToTimespec(int64(wait))
			syscall.Nanosleep(&pause, nil)
		}
		send(i, intended)
	}
}

// echo: each connection has window calls in flight, or all together rate a second.
func (r *run) echo() error {
	conns, err := r.open(r.connections, r.user, nil)
	if err != nil {
		return err
	}
	for _, c := range conns {
		scratch := make([]byte, 0, r.payload)
		seq := uint32(1)
		go r.serve(c, func(c *conn, ev *event) {
			r.arrived(ev.body)
			if r.rate == 0 {
				seq++
				scratch = r.stamp(scratch, r.now())
				c.out = c.speak.call(c.out, r.procedure, seq+1<<16, scratch)
			}
		}, r.counted)
	}
	if r.rate > 0 {
		go r.paced(func(i int, intended time.Duration) {
			c := conns[i%len(conns)]
			r.check(c.send(c.speak.call(nil, r.procedure, uint32(i)+2, r.stamp(nil, intended))))
		})
		return nil
	}
	for _, c := range conns {
		var first []byte
		for i := range r.window {
			first = c.speak.call(first, r.procedure, uint32(i)+2, r.stamp(nil, r.now()))
		}
		r.check(c.send(first))
	}
	return nil
}

func (r *run) counted(c *conn, n int) { r.count.Add(int64(n)) }

func (r *run) check(err error) {
	if err != nil {
		r.fail(err)
	}
}

// sampled: of many subscribers, so many measure the latency of each message; the others only count.
const sampled = 16

// fanOut: one publisher, window publications in flight to all subscribers, or rate a second.
func (r *run) fanOut() error {
	conns, err := r.open(r.connections, "", func(c *conn) error {
		return c.ask(c.speak.subscribe(nil, r.channel))
	})
	if err != nil {
		return err
	}
	publishers, err := r.open(1, "", nil)
	if err != nil {
		return err
	}
	publisher := publishers[0]
	go r.serve(publisher, func(*conn, *event) {}, nil)
	// Deliveries wanted before the next publication may go, and who to wake then.
	var threshold atomic.Int64
	wake := make(chan struct{}, 1)
	after := func(c *conn, n int) {
		if r.count.Add(int64(n)) >= threshold.Load() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
	for i, c := range conns {
		handle := func(c *conn, ev *event) {}
		if i%(max(len(conns)/sampled, 1)) == 0 {
			handle = func(c *conn, ev *event) { r.arrived(ev.body) }
		}
		go r.serve(c, handle, after)
	}
	if r.rate > 0 {
		go r.paced(func(i int, intended time.Duration) {
			r.sent.Add(1)
			r.check(publisher.send(publisher.speak.publish(nil, r.channel, r.stamp(nil, intended))))
		})
		return nil
	}
	go func() {
		receivers := int64(len(conns))
		published := int64(0)
		var out, body []byte
		for !r.ending.Load() {
			out = out[:0]
			for done := r.count.Load() / receivers; published-done < int64(r.window); published++ {
				body = r.stamp(body, r.now())
				out = publisher.speak.publish(out, r.channel, body)
			}
			r.sent.Store(published)
			threshold.Store((published - int64(r.window) + 1) * receivers)
			if len(out) > 0 {
				r.check(publisher.send(out))
			}
			if r.count.Load() < threshold.Load() {
				<-wake
			}
		}
	}()
	return nil
}

// push: pairs of users; window messages in flight over all pairs, or rate a second. Each message that arrives lets
// the next pair in turn send one.
func (r *run) push() error {
	receivers, err := r.open(r.connections, r.user+"to", nil)
	if err != nil {
		return err
	}
	senders, err := r.open(r.connections, r.user+"from", nil)
	if err != nil {
		return err
	}
	pairs := len(receivers)
	names := make([]string, pairs)
	for i := range names {
		names[i] = r.user + "to" + strconv.Itoa(i)
	}
	var turn atomic.Int64
	send := func(i int, at time.Duration) {
		c := senders[i%pairs]
		r.check(c.send(c.speak.push(nil, names[i%pairs], r.stamp(nil, at))))
	}
	for i := range pairs {
		go r.serve(senders[i], func(*conn, *event) {}, nil)
		go r.serve(receivers[i], func(c *conn, ev *event) {
			r.arrived(ev.body)
			if r.rate == 0 {
				send(int(turn.Add(1)), r.now())
			}
		}, r.counted)
	}
	if r.rate > 0 {
		go r.paced(send)
		return nil
	}
	for range r.window {
		send(int(turn.Add(1)), r.now())
	}
	return nil
}

// rpc: connections callers with window calls in flight in all, answered by one other client.
func (r *run) rpc() error {
	providers, err := r.open(1, "", func(c *conn) error { return c.ask(c.speak.register(nil, r.procedure)) })
	if err != nil {
		return err
	}
	go r.serve(providers[0], func(c *conn, ev *event) { c.out = c.speak.reply(c.out, ev, ev.body) }, nil)
	all := r.window
	r.window = max(1, all/r.connections)
	return r.echo()
}

// connect: window workers open sessions and end them, as fast as they can.
func (r *run) connect() error {
	for i := range r.window {
		go func() {
			for n := 0; !r.ending.Load(); n++ {
				before := r.now()
				c, err := dial(r.address, r.make, r.user+strconv.Itoa(i), i)
				if err != nil {
					r.fail(err)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				r.latency.add(int64(r.now() - before))
				r.count.Add(1)
				c.abort()
			}
		}()
	}
	return nil
}

// idle: connections that only answer pings.
func (r *run) idle() error {
	conns, err := r.open(r.connections, "", nil)
	if err != nil {
		return err
	}
	for _, c := range conns {
		c.buffer = nil
		go r.serve(c, func(*conn, *event) {}, nil)
	}
	r.count.Store(int64(len(conns)))
	return nil
}

// spread: one publisher to channels that have one subscriber each, window in flight; connections share the channels.
func (r *run) spread(channels int) error {
	conns, err := r.open(r.connections, "", func(c *conn) error {
		for i := c.number; i < channels; i += r.connections {
			if err := c.ask(c.speak.subscribe(nil, r.channel+strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	publishers, err := r.open(1, "", nil)
	if err != nil {
		return err
	}
	publisher := publishers[0]
	go r.serve(publisher, func(*conn, *event) {}, nil)
	next := 0
	var lock sync.Mutex
	send := func(n int) {
		lock.Lock()
		var out []byte
		for range n {
			// A large step, so that neighbours in time are not neighbours in memory.
			next = (next + 7919) % channels
			out = publisher.speak.publish(out, r.channel+strconv.Itoa(next), r.stamp(nil, r.now()))
		}
		lock.Unlock()
		r.check(publisher.send(out))
	}
	for _, c := range conns {
		go r.serve(c, func(c *conn, ev *event) { r.arrived(ev.body) }, func(c *conn, n int) {
			r.count.Add(int64(n))
			send(n)
		})
	}
	send(r.window)
	return nil
}

// storer: a dialect whose publications can be answered when they are stored.
type storer interface {
	store(dst []byte, channel string, seq uint32, body []byte) []byte
}

// store: publishers with window publications in all that are not answered yet, or rate a second; each is answered when
// its channel's history has it. The publishers share the channels. Latency is that of the answer.
func (r *run) store(channels int) error {
	publishers, err := r.open(r.connections, "", nil)
	if err != nil {
		return err
	}
	window := max(1, r.window/len(publishers))
	for _, c := range publishers {
		speak, able := c.speak.(storer)
		if !able {
			return fmt.Errorf("this dialect has no answered publications")
		}
		channel := r.channel + "." + strconv.Itoa(c.number%channels)
		seq := uint32(1)
		// Answers come in the order of the publications: the first that waits is the one that is answered.
		waiting := make(chan time.Duration, max(window, 1<<16))
		publish := func(out []byte, at time.Duration) []byte {
			seq++
			waiting <- at
			r.sent.Add(1)
			return speak.store(out, channel, seq, r.stamp(nil, at))
		}
		go r.serve(c, func(c *conn, ev *event) {
			if ev.kind == response {
				r.latency.add(int64(r.now() - <-waiting))
				if r.rate == 0 {
					c.out = publish(c.out, r.now())
				}
			}
		}, r.counted)
		if r.rate > 0 {
			number := c.number
			go r.paced(func(i int, intended time.Duration) {
				if i%len(publishers) == number {
					r.check(c.send(publish(nil, intended)))
				}
			})
			continue
		}
		var first []byte
		for range window {
			first = publish(first, r.now())
		}
		r.check(c.send(first))
	}
	return nil
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}
