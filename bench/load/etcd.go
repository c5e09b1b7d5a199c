//go:build go1.24

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// etcd: the same writes to etcd's gRPC service. A unary call is a POST over HTTP/2 without TLS, its message and its
// answer protobuf behind five bytes: a flag and the length.

func etcdPut(key string, value []byte) []byte {
	message := append([]byte{0x0a}, binary.AppendUvarint(nil, uint64(len(key)))...)
	message = append(append(message, key...), 0x12)
	message = append(binary.AppendUvarint(message, uint64(len(value))), value...)
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(head, message...)
}

func (r *run) etcd() error {
	address, found := strings.CutPrefix(r.address, "tcp://")
	if !found {
		return fmt.Errorf("etcd is reached by tcp://, not %q", r.address)
	}
	for number := range r.connections {
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.DialTimeout("tcp", address, 10*time.Second)
		}}
		client := &http.Client{Transport: transport}
		put := func(number uint64) error { return etcdCall(client, address, etcdPut(key(number), r.body)) }
		if err := put(0); err != nil {
			return err
		}
		for place := range r.share(number) {
			go r.etcdWrites(put, uint64(number)<<32+uint64(place)<<16)
		}
	}
	return nil
}

func (r *run) etcdWrites(put func(uint64) error, number uint64) {
	for !r.ending.Load() {
		number++
		began := r.now()
		r.sent.Add(1)
		if err := put(number); err != nil {
			r.fail(err)
			return
		}
		r.latency.add(int64(r.now() - began))
		r.count.Add(1)
	}
}

func etcdCall(client *http.Client, address string, message []byte) error {
	request, err := http.NewRequest("POST", "http://"+address+"/etcdserverpb.KV/Put", bytes.NewReader(message))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	status := answer.Trailer.Get("Grpc-Status")
	if status == "" {
		status = answer.Header.Get("Grpc-Status")
	}
	if status != "0" {
		return fmt.Errorf("etcd: HTTP status %d, gRPC status %q", answer.StatusCode, status)
	}
	return nil
}
