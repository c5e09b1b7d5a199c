package main

import (
	"math/bits"
	"strconv"
	"sync/atomic"
)

// A histogram of durations in nanoseconds with logarithmic buckets: 64 in each power of two, so that a value is known
// to 1.6 %. Safe for any number of goroutines; the counts are exact, a percentile is the upper end of its bucket.
type histogram struct {
	buckets [64 * 64]uint64
	max     uint64
}

const subBits = 6

func bucketOf(ns uint64) int {
	if ns < 1<<subBits {
		return int(ns)
	}
	exponent := bits.Len64(ns) - subBits
	return exponent<<subBits + int(ns>>(exponent-1))&(1<<subBits-1)
}

func upperEnd(bucket int) uint64 {
	exponent, rest := bucket>>subBits, uint64(bucket&(1<<subBits-1))
	if exponent == 0 {
		return rest
	}
	return (1<<subBits + rest + 1) << (exponent - 1)
}

func (h *histogram) add(ns int64) {
	if ns < 0 {
		ns = 0
	}
	atomic.AddUint64(&h.buckets[bucketOf(uint64(ns))], 1)
	for {
		max := atomic.LoadUint64(&h.max)
		if uint64(ns) <= max || atomic.CompareAndSwapUint64(&h.max, max, uint64(ns)) {
			return
		}
	}
}

func (h *histogram) reset() {
	for i := range h.buckets {
		atomic.StoreUint64(&h.buckets[i], 0)
	}
	atomic.StoreUint64(&h.max, 0)
}

// sparse is the histogram as JSON wants it: upper end of the bucket in nanoseconds to count, so that the results of
// several processes can be added.
func (h *histogram) sparse() map[string]uint64 {
	found := map[string]uint64{}
	for i := range h.buckets {
		if count := atomic.LoadUint64(&h.buckets[i]); count > 0 {
			found[strconv.FormatUint(upperEnd(i), 10)] += count
		}
	}
	return found
}

// percentile gives the value in nanoseconds below which the part q (0 to 1) of all values lies.
func (h *histogram) percentile(q float64) uint64 {
	var total, seen uint64
	for i := range h.buckets {
		total += atomic.LoadUint64(&h.buckets[i])
	}
	if total == 0 {
		return 0
	}
	rank := uint64(q*float64(total-1)) + 1
	for i := range h.buckets {
		seen += atomic.LoadUint64(&h.buckets[i])
		if seen >= rank {
			return min(upperEnd(i), atomic.LoadUint64(&h.max))
		}
	}
	return atomic.LoadUint64(&h.max)
}
