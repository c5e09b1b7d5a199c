package main

import (
	"encoding/json"
	"strconv"
	"time"
)

// put: connections that together have window writes of a key in flight, each on a replicated key-value state.

const keys = 1000 // that are written in turn

func key(number uint64) string { return "bench." + strconv.FormatUint(number%keys, 10) }

// share is what connection number has of window.
func (r *run) share(number int) int {
	share := r.window / r.connections
	if number < r.window%r.connections {
		share++
	}
	return share
}

func (r *run) put() error {
	conns, err := r.open(r.connections, "", nil)
	if err != nil {
		return err
	}
	for number, c := range conns {
		if share := r.share(number); share > 0 {
			r.putOn(c, uint64(number)<<32, share)
		}
	}
	return nil
}

// putOn keeps share writes of relay's $raft.put in flight on c. The place of a write in began is its number of the
// share, in the low bits of seq; a write takes the place of the one that was answered.
func (r *run) putOn(c *conn, number uint64, share int) {
	began := make([]time.Duration, share)
	write := func(dst []byte, place int) []byte {
		number++
		body, _ := json.Marshal(map[string]string{"key": key(number), "value": string(r.body)})
		began[place] = r.now()
		r.sent.Add(1)
		return framed(dst, func(d []byte) []byte {
			return appendFrame(d, kindPull, codecJSON, uint32(place)+2, "$raft.put", nil, body)
		})
	}
	var first []byte
	for place := range share {
		first = write(first, place)
	}
	go r.serve(c, func(c *conn, ev *event) {
		place := int(ev.seq) - 2
		if place < 0 || place >= share {
			return
		}
		r.latency.add(int64(r.now() - began[place]))
		c.out = write(c.out, place)
	}, r.counted)
	r.check(c.send(first))
}
