// Peers for relay's KCP made of xtaci/kcp-go and xtaci/smux: an echo server and clients that check or measure.
//
//	kcp serve  -listen 127.0.0.1:0 [-smux N]                     prints "listening ADDRESS"; echoes all it gets
//	kcp echo   -peer ADDRESS -bytes N [-smux N -streams M]       sends N bytes, wants them back; prints JSON
//	kcp load   -peer ADDRESS -sessions N -payload B -depth D -seconds S   echoes in flight; prints JSON
//	kcp sink   -listen ... | flood -peer ... -seconds S          one way
//
// Common: -cipher NAME -key 64 HEX DIGITS -data K -parity M -mtu N -window N -nodelay -loss PERCENT (of what is sent).
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xtaci/kcp-go/v5"
	"github.com/xtaci/smux"
)

var (
	listen   = flag.String("listen", "127.0.0.1:0", "address to serve on")
	peer     = flag.String("peer", "", "address to talk to")
	cipher   = flag.String("cipher", "null", "null, none, aes, aes-128, aes-192, aes-256, salsa20, xor, aes-256-gcm, aes-128-gcm")
	key      = flag.String("key", "", "64 hexadecimal digits")
	data     = flag.Int("data", 0, "data shards")
	parity   = flag.Int("parity", 0, "parity shards")
	mtu      = flag.Int("mtu", 1400, "bytes of a datagram")
	window   = flag.Int("window", 1024, "segments")
	nodelay  = flag.Bool("nodelay", true, "nodelay 1,10,2,1; else 0,20,2,0")
	loss     = flag.Int("loss", 0, "percent of datagrams that are not sent")
	version  = flag.Int("smux", 0, "smux version, 0: none")
	streams  = flag.Int("streams", 3, "streams of smux")
	total    = flag.Int("bytes", 1<<20, "bytes of each stream")
	sessions = flag.Int("sessions", 50, "sessions under load")
	payload  = flag.Int("payload", 128, "bytes of an echo")
	depth    = flag.Int("depth", 32, "echoes in flight of a session")
	seconds  = flag.Float64("seconds", 3, "how long")
	joined   = flag.Bool("stream", true, "stream mode")
)

// lossy leaves out datagrams that are sent.
type lossy struct {
	net.PacketConn
	percent int
}

func (l *lossy) WriteTo(p []byte, addr net.Addr) (int, error) {
	if rand.Intn(100) < l.percent {
		return len(p), nil
	}
	return l.PacketConn.WriteTo(p, addr)
}

func block() kcp.BlockCrypt {
	raw, err := hex.DecodeString(*key)
	if err != nil {
		log.Fatal(err)
	}
	var made kcp.BlockCrypt
	switch *cipher {
	case "null":
		return nil
	case "none":
		made, err = kcp.NewNoneBlockCrypt(raw)
	case "aes", "aes-256":
		made, err = kcp.NewAESBlockCrypt(raw)
	case "aes-192":
		made, err = kcp.NewAESBlockCrypt(raw[:24])
	case "aes-128":
		made, err = kcp.NewAESBlockCrypt(raw[:16])
	case "salsa20":
		made, err = kcp.NewSalsa20BlockCrypt(raw)
	case "xor":
		made, err = kcp.NewSimpleXORBlockCrypt(raw)
	case "aes-256-gcm":
		made, err = gcm(raw)
	case "aes-128-gcm":
		made, err = gcm(raw[:16])
	default:
		log.Fatalf("unknown cipher %q", *cipher)
	}
	if err != nil {
		log.Fatal(err)
	}
	return made
}

func tune(session *kcp.UDPSession) {
	session.SetStreamMode(*joined)
	session.SetWriteDelay(false)
	session.SetACKNoDelay(true)
	session.SetWindowSize(*window, *window)
	session.SetMtu(*mtu)
	if *nodelay {
		session.SetNoDelay(1, 10, 2, 1)
	} else {
		session.SetNoDelay(0, 20, 2, 0)
	}
}

func packets(address string) net.PacketConn {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		log.Fatal(err)
	}
	conn.(*net.UDPConn).SetReadBuffer(4 << 20)
	conn.(*net.UDPConn).SetWriteBuffer(4 << 20)
	if *loss > 0 {
		return &lossy{conn, *loss}
	}
	return conn
}

func dial() *kcp.UDPSession {
	session, err := kcp.NewConn(*peer, block(), *data, *parity, packets("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	tune(session)
	return session
}

func muxed() *smux.Config {
	config := smux.DefaultConfig()
	config.Version = *version
	config.MaxStreamBuffer = 1 << 20
	return config
}

func serve(use func(net.Conn)) {
	listener, err := kcp.ServeConn(block(), *data, *parity, packets(*listen))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening %s\n", listener.Addr())
	for {
		session, err := listener.AcceptKCP()
		if err != nil {
			log.Fatal(err)
		}
		tune(session)
		if *version == 0 {
			go use(session)
			continue
		}
		go func() {
			mux, err := smux.Server(session, muxed())
			if err != nil {
				log.Fatal(err)
			}
			for {
				stream, err := mux.AcceptStream()
				if err != nil {
					return
				}
				go use(stream)
			}
		}()
	}
}

func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err = conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// answered sends random bytes and reports whether the same came back.
func answered(conn net.Conn) bool {
	sent := make([]byte, *total)
	rand.Read(sent)
	conn.SetDeadline(time.Now().Add(time.Duration(*seconds * float64(time.Second))))
	go func() {
		for at := 0; at < len(sent); at += 30000 {
			end := at + 30000
			if end > len(sent) {
				end = len(sent)
			}
			conn.Write(sent[at:end])
		}
	}()
	got := make([]byte, *total)
	if _, err := io.ReadFull(conn, got); err != nil {
		return false
	}
	return sha256.Sum256(got) == sha256.Sum256(sent) && bytes.Equal(got, sent)
}

func check() {
	session := dial()
	equal := true
	count := 1
	if *version == 0 {
		equal = answered(session)
	} else {
		mux, err := smux.Client(session, muxed())
		if err != nil {
			log.Fatal(err)
		}
		count = *streams
		results := make(chan bool, count)
		for i := 0; i < count; i++ {
			go func() {
				stream, err := mux.OpenStream()
				results <- err == nil && answered(stream)
			}()
		}
		for i := 0; i < count; i++ {
			equal = <-results && equal
		}
	}
	report(map[string]interface{}{"equal": equal, "bytes": count * *total})
}

func cpu() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func load() {
	var done atomic.Int64
	var group sync.WaitGroup
	for i := 0; i < *sessions; i++ {
		session := dial()
		group.Add(1)
		go func() {
			defer group.Done()
			message := make([]byte, *payload)
			for i := 0; i < *depth; i++ {
				session.Write(message)
			}
			buffer := make([]byte, 65536)
			rest := 0
			for {
				n, err := session.Read(buffer)
				if err != nil {
					return
				}
				rest += n
				count := rest / *payload
				rest %= *payload
				done.Add(int64(count))
				if count > 0 {
					session.Write(bytes.Repeat(message, count))
				}
			}
		}()
	}
	time.Sleep(500 * time.Millisecond)
	before, began, used := done.Load(), time.Now(), cpu()
	time.Sleep(time.Duration(*seconds * float64(time.Second)))
	rate := float64(done.Load()-before) / time.Since(began).Seconds()
	report(map[string]interface{}{"per_s": rate, "cpu": (cpu() - used) / time.Since(began).Seconds()})
}

func flood() {
	session := dial()
	chunk := make([]byte, 65536)
	stop := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	began, sent := time.Now(), 0
	for time.Now().Before(stop) {
		n, err := session.Write(chunk)
		if err != nil {
			break
		}
		sent += n
	}
	report(map[string]interface{}{"bytes": sent, "per_s": float64(sent) / time.Since(began).Seconds()})
}

func sink(conn net.Conn) {
	buffer := make([]byte, 1<<20)
	began, got := time.Now(), 0
	for {
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(buffer)
		if err != nil {
			report(map[string]interface{}{"bytes": got, "per_s": float64(got) / (time.Since(began) - time.Second).Seconds()})
			return
		}
		got += n
	}
}

func report(result map[string]interface{}) {
	json.NewEncoder(os.Stdout).Encode(result)
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("which: serve, echo, load, sink, flood")
	}
	what := os.Args[1]
	flag.CommandLine.Parse(os.Args[2:])
	switch what {
	case "serve":
		serve(echo)
	case "sink":
		serve(sink)
	case "echo":
		check()
	case "load":
		load()
	case "flood":
		flood()
	default:
		log.Fatalf("unknown: %s", what)
	}
}
