// A program that calls an API with net/http, and says in which version of HTTP it was answered: http2_calls URL [PROXY]
//
// With a proxy, it connects through CONNECT and offers nothing but HTTP/2 there. The CA is the file in SSL_CERT_FILE.

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
)

func connect(proxy string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		plain, err := (&net.Dialer{}).DialContext(ctx, network, proxy)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(plain, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address)
		response, err := http.ReadResponse(bufio.NewReader(plain), &http.Request{Method: "CONNECT"})
		if err != nil {
			return nil, err
		}
		if response.StatusCode != 200 {
			return nil, fmt.Errorf("CONNECT: %s", response.Status)
		}
		host, _, _ := net.SplitHostPort(address)
		secure := tls.Client(plain, &tls.Config{ServerName: host, NextProtos: []string{"h2"}})
		return secure, secure.HandshakeContext(ctx)
	}
}

func main() {
	transport := &http.Transport{ForceAttemptHTTP2: true, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	if len(os.Args) > 2 {
		transport.DialTLSContext = connect(os.Args[2])
	}
	client := &http.Client{Transport: transport}
	base := os.Args[1]
	say := func(what string, response *http.Response, err error, read int64) {
		if err != nil {
			fmt.Println(what, err)
		} else {
			fmt.Println(what, response.Proto, response.StatusCode, read)
		}
	}
	call := func(what, method, path string, body io.Reader) {
		request, err := http.NewRequest(method, base+path, body)
		if err != nil {
			panic(err)
		}
		var read int64
		response, err := client.Do(request)
		if err == nil {
			read, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		say(what, response, err, read)
	}

	call("first", "GET", "/bytes/70000", nil)
	var all sync.WaitGroup
	for index := 0; index < 20; index++ {
		all.Add(1)
		go func() {
			defer all.Done()
			call("together", "GET", "/bytes/70000", nil)
		}()
	}
	all.Wait()
	// A pipe has no length that anybody knows.
	reader, writer := io.Pipe()
	go func() {
		for index := 0; index < 100; index++ {
			writer.Write(make([]byte, 10_000))
		}
		writer.Close()
	}()
	call("upload", "POST", "/echo", reader)
	call("head", "HEAD", "/bytes/1000", nil)
	response, err := client.Get(base + "/bytes/10000000")
	if err == nil {
		_, err = io.ReadFull(response.Body, make([]byte, 1))
		response.Body.Close() // RST_STREAM
	}
	say("left", response, err, 1)
	call("last", "GET", "/status/204", nil)
}
