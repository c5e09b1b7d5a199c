// A client of relay's QUIC made of quic-go: it checks or measures, and prints JSON. The server is relay.test.quic_peer,
// which echoes the session's stream, streams of one frame and DATAGRAM frames, or a node.
//
//	quic echo      -bytes N                         the session's stream comes back equal
//	quic apart     -first HEX -alone HEX -loose HEX -count N  unidirectional streams and DATAGRAM frames come back equal
//	quic early     -first HEX -count N              with a ticket, the first with the first datagrams: answered, and how
//	                                                often before the handshake was complete; times in ms, medians
//	quic download  -bytes N                         asks for so many bytes; bytes a second
//	quic upload    -bytes N                         sends so many and waits for one; bytes a second
//	quic node      -first HEX                       what a node answers within -wait, in hexadecimal
//
// All with -peer ADDRESS -ca FILE.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"log"
	"os"
	"sort"
	"time"

	"github.com/quic-go/quic-go"
)

var (
	peer   = flag.String("peer", "", "address to talk to")
	ca     = flag.String("ca", "", "PEM file with the certificate to trust")
	total  = flag.Int("bytes", 1<<20, "bytes")
	count  = flag.Int("count", 50, "messages of each kind, or connections")
	first  = flag.String("first", "", "what to send first on the session's stream, hexadecimal")
	alone  = flag.String("alone", "", "what to send on a stream of its own, with a number behind it, hexadecimal")
	loose  = flag.String("loose", "", "the same in a DATAGRAM frame")
	wait   = flag.Duration("wait", time.Second, "how long to wait for answers")
	within = flag.Duration("within", 60*time.Second, "give up after that")
)

func options() *quic.Config {
	return &quic.Config{EnableDatagrams: true, MaxIncomingUniStreams: 64, InitialStreamReceiveWindow: 4 << 20,
		InitialConnectionReceiveWindow: 8 << 20}
}

func trust() *tls.Config {
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(*ca)
	must(err)
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, NextProtos: []string{"relay/1"}, MinVersion: tls.VersionTLS13,
		ClientSessionCache: tls.NewLRUClientSessionCache(8)}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func bytesOf(digits string) []byte {
	made, err := hex.DecodeString(digits)
	must(err)
	return made
}

func say(values map[string]any) { must(json.NewEncoder(os.Stdout).Encode(values)) }

func pattern(size int) []byte {
	made := make([]byte, size)
	for i := range made {
		made[i] = byte(i * 7 >> 3)
	}
	return made
}

func echo(ctx context.Context) {
	c, err := dial(ctx, *peer, trust(), false)
	must(err)
	stream, err := c.OpenStreamSync(ctx)
	must(err)
	sent := pattern(*total)
	go func() { stream.Write(sent) }()
	got := make([]byte, len(sent))
	_, err = io.ReadFull(stream, got)
	say(map[string]any{"equal": err == nil && bytes.Equal(sent, got), "bytes": len(got)})
	c.CloseWithError(0, "")
}

func apart(ctx context.Context) {
	c, err := dial(ctx, *peer, trust(), false)
	must(err)
	stream, err := c.OpenStreamSync(ctx)
	must(err)
	_, err = stream.Write(bytesOf(*first))
	must(err)
	one := make([]byte, 1)
	_, err = io.ReadFull(stream, one)
	must(err)
	streams, datagrams := map[string]bool{}, map[string]bool{}
	done := make(chan bool)
	go func() {
		for i := 0; i < *count; i++ {
			incoming, err := c.AcceptUniStream(ctx)
			if err != nil {
				break
			}
			got, _ := io.ReadAll(incoming)
			streams[string(got)] = true
		}
		done <- true
	}()
	go func() {
		for i := 0; i < *count; i++ {
			got, err := receiveDatagram(ctx, c)
			if err != nil {
				break
			}
			datagrams[string(got[4:])] = true
		}
		done <- true
	}()
	numbered := func(digits string, i int) []byte { return binary.BigEndian.AppendUint32(bytesOf(digits), uint32(i)) }
	for i := 0; i < *count; i++ {
		outgoing, err := c.OpenUniStreamSync(ctx)
		must(err)
		outgoing.Write(numbered(*alone, i))
		outgoing.Close()
		must(sendDatagram(c, append([]byte{byte(i >> 8), byte(i), 0, 0}, numbered(*loose, i)...)))
		time.Sleep(time.Millisecond) // datagrams that come too fast may be lost, also on loopback
	}
	<-done
	<-done
	right := func(got map[string]bool, digits string) int {
		n := 0
		for i := 0; i < *count; i++ {
			if got[string(numbered(digits, i))] {
				n++
			}
		}
		return n
	}
	say(map[string]any{"streams": right(streams, *alone), "datagrams": right(datagrams, *loose), "count": *count})
	c.CloseWithError(0, "")
}

// counted tells of each ticket that the server gives: each is good for one connection.
type counted struct {
	tls.ClientSessionCache
	came chan bool
}

func (c *counted) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil {
		select {
		case c.came <- true:
		default:
		}
	}
}

func early(ctx context.Context) {
	config := trust()
	tickets := &counted{config.ClientSessionCache, make(chan bool, 1)}
	config.ClientSessionCache = tickets
	handshakes, answers, used := []float64{}, []float64{}, 0
	for i := 0; i <= *count; i++ {
		start := time.Now()
		c, err := dial(ctx, *peer, config, i > 0)
		must(err)
		if i == 0 {
			untilComplete(c)
		}
		stream, err := c.OpenStreamSync(ctx)
		must(err)
		_, err = stream.Write(bytesOf(*first))
		must(err)
		one := make([]byte, 1)
		_, err = io.ReadFull(stream, one)
		must(err)
		untilComplete(c)
		if i > 0 {
			answers = append(answers, time.Since(start).Seconds()*1000)
			if usedEarly(c) {
				used++
			}
		}
		select {
		case <-tickets.came:
		case <-ctx.Done():
			log.Fatal("no ticket")
		}
		c.CloseWithError(0, "")
	}
	for i := 0; i < *count; i++ {
		fresh := trust()
		start := time.Now()
		c, err := dial(ctx, *peer, fresh, false)
		must(err)
		untilComplete(c)
		handshakes = append(handshakes, time.Since(start).Seconds()*1000)
		c.CloseWithError(0, "")
	}
	median := func(values []float64) float64 { sort.Float64s(values); return values[len(values)/2] }
	say(map[string]any{"early": used, "count": *count, "handshake_ms": median(handshakes), "early_ms": median(answers),
		"handshake_min_ms": handshakes[0], "early_min_ms": answers[0]})
}

// flow says how many bytes are to be sent back and how many it sends, eight bytes each, and sends them.
func flow(ctx context.Context, upload bool) {
	c, err := dial(ctx, *peer, trust(), false)
	must(err)
	stream, err := c.OpenStreamSync(ctx)
	must(err)
	back, coming := *total, 0
	if upload {
		back, coming = 1, *total
	}
	start := time.Now()
	head := binary.BigEndian.AppendUint64([]byte{}, uint64(back))
	_, err = stream.Write(binary.BigEndian.AppendUint64(head, uint64(coming)))
	must(err)
	chunk := pattern(1 << 16)
	for left := coming; left > 0; left -= len(chunk) {
		if left < len(chunk) {
			chunk = chunk[:left]
		}
		_, err = stream.Write(chunk)
		must(err)
	}
	got, err := io.Copy(io.Discard, io.LimitReader(stream, int64(back)))
	must(err)
	seconds := time.Since(start).Seconds()
	say(map[string]any{"per_s": float64(*total) / seconds, "seconds": seconds, "got": got})
	c.CloseWithError(0, "")
}

func node(ctx context.Context) {
	c, err := dial(ctx, *peer, trust(), false)
	must(err)
	stream, err := c.OpenStreamSync(ctx)
	must(err)
	_, err = stream.Write(bytesOf(*first))
	must(err)
	stream.SetReadDeadline(time.Now().Add(*wait))
	got, _ := io.ReadAll(stream)
	say(map[string]any{"got": hex.EncodeToString(got)})
	c.CloseWithError(0, "")
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("which?")
	}
	flag.CommandLine.Parse(os.Args[2:])
	ctx, cancel := context.WithTimeout(context.Background(), *within)
	defer cancel()
	switch os.Args[1] {
	case "echo":
		echo(ctx)
	case "apart":
		apart(ctx)
	case "early":
		early(ctx)
	case "download":
		flow(ctx, false)
	case "upload":
		flow(ctx, true)
	case "node":
		node(ctx)
	default:
		log.Fatal("which?")
	}
}
