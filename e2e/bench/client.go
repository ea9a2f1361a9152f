package main

// The client. It shares the machine's cores with the servers, so what it spends is missing from every
// rate, and the more so the faster the server is: it has to be lean. It writes HTTP/1.1 itself, over
// connections that are there before the clock starts; it sends a body from memory in one system call;
// it hashes no blob while the clock runs (content.go); and it compares what it pulls with what it knows,
// which costs a tenth of a hash. It understands as much HTTP as registries speak: replies with a length,
// in chunks or up to the connection's end, a Location with or without a host, and connections that the
// server closes.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	pullBuffer = 256 << 10
	chunk      = 32 << 10         // of a body of unknown length: what docker sends
	chunksOnce = 8                // in one system call
	patience   = 15 * time.Minute // for all that is done over one connection
)

// A conn is a connection to one server, for one goroutine. It is closed when its context ends.
type conn struct {
	ctx    context.Context
	server *server
	net    net.Conn
	r      *bufio.Reader
	forget func() bool // that ctx closes net
	head   []byte
	parts  net.Buffers

	// Of the last reply:
	status   int
	location string // a path, with its query
	digest   string // Docker-Content-Digest
	length   int64  // -1 when it has none
	chunked  bool
	closes   bool   // the server closes the connection after it
	body     []byte // for do: valid until the next request
}

func dial(ctx context.Context, s *server) (*conn, error) {
	c := &conn{ctx: ctx, server: s}
	return c, c.redial()
}

func (c *conn) redial() error {
	c.Close()
	nc, err := (&net.Dialer{}).DialContext(c.ctx, "tcp", c.server.addr)
	if err != nil {
		return fmt.Errorf("%s: %w", c.server.name, err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	c.net, c.r, c.closes = nc, bufio.NewReaderSize(nc, 16<<10), false
	c.forget = context.AfterFunc(c.ctx, func() { nc.Close() })
	return nil
}

func (c *conn) Close() {
	if c.net != nil {
		c.forget()
		c.net.Close()
		c.net = nil
	}
}

// do sends a request with its body, insists on a status, and reads the reply into c.body. header is
// lines that end in CRLF, or nothing.
func (c *conn) do(want int, method, path, header string, body ...[]byte) error {
	err := c.send(method, path, header, false, body)
	if err == nil {
		err = c.reply(method)
	}
	return c.finish(err, want, method, path)
}

// stream is do with a body in chunks, as if its length were not known.
func (c *conn) stream(want int, method, path, header string, b blob) error {
	err := c.send(method, path, header, true, nil)
	line := fmt.Appendf(nil, "%x\r\n", chunk)
	for at := 0; err == nil && at < b.size(); {
		c.parts = c.parts[:0]
		for range chunksOnce {
			n := min(chunk, b.size()-at)
			if n == 0 {
				break
			}
			if n < chunk {
				line = fmt.Appendf(nil, "%x\r\n", n)
			}
			c.parts = append(append(append(c.parts, line), b.slice(at, at+n)...), crlf)
			at += n
		}
		parts := c.parts
		_, err = parts.WriteTo(c.net)
	}
	if err == nil {
		_, err = io.WriteString(c.net, "0\r\n\r\n")
	}
	if err == nil {
		err = c.reply(method)
	}
	return c.finish(err, want, method, path)
}

// pull gets a large blob and compares each buffer of it.
func (c *conn) pull(path string, b blob, buffer []byte) error {
	err := c.send("GET", path, "", false, nil)
	if err == nil {
		err = c.reply("GET")
	}
	if err != nil || c.status != 200 {
		return c.finish(err, 200, "GET", path)
	}
	at := 0
	for r := c.reader(); ; {
		n, err := r.Read(buffer)
		if !b.equal(at, buffer[:n]) {
			return c.wrong("GET", path, errors.New("these are not the blob's bytes"))
		}
		at += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return c.wrong("GET", path, err)
		}
	}
	if at != b.size() {
		return c.wrong("GET", path, fmt.Errorf("%d bytes instead of %d", at, b.size()))
	}
	if c.chunked {
		return c.trailer()
	}
	return nil
}

// get gets what is small and compares it.
func (c *conn) get(path, header string, want ...[]byte) error {
	if err := c.do(200, "GET", path, header); err != nil {
		return err
	}
	rest, same := c.body, true
	for _, p := range want {
		same = same && bytes.HasPrefix(rest, p)
		rest = rest[min(len(p), len(rest)):]
	}
	if !same || len(rest) > 0 {
		return c.wrong("GET", path, fmt.Errorf("%d bytes, and not those that were pushed", len(c.body)))
	}
	return nil
}

func (c *conn) wrong(method, path string, err error) error {
	if c.ctx.Err() != nil {
		return c.ctx.Err() // which has closed the connection
	}
	return fmt.Errorf("%s: %s %s: %w", c.server.name, method, path, err)
}

var crlf = []byte("\r\n")

// send writes a request, but for the body if that comes in chunks.
func (c *conn) send(method, path, header string, chunked bool, body net.Buffers) error {
	if c.closes || c.net == nil {
		if err := c.redial(); err != nil {
			return err
		}
	}
	h := append(c.head[:0], method...)
	h = append(append(append(h, ' '), path...), " HTTP/1.1\r\nHost: "...)
	h = append(append(append(h, c.server.addr...), "\r\n"...), header...)
	if chunked {
		h = append(h, "Transfer-Encoding: chunked\r\n"...)
	} else if method != "GET" && method != "HEAD" {
		n := 0
		for _, p := range body {
			n += len(p)
		}
		h = append(strconv.AppendInt(append(h, "Content-Length: "...), int64(n), 10), "\r\n"...)
	}
	c.head = append(h, "\r\n"...)
	if len(body) == 0 {
		_, err := c.net.Write(c.head)
		return err
	}
	c.parts = append(append(c.parts[:0], c.head), body...)
	parts := c.parts
	_, err := parts.WriteTo(c.net)
	return err
}

// reply reads a reply's head, and its body too unless that is the content of a GET.
func (c *conn) reply(method string) error {
	for c.status = 100; c.status < 200; { // 1xx are followed by another
		if err := c.readHead(); err != nil {
			return err
		}
	}
	c.body = c.body[:0]
	if method == "HEAD" || c.status == 204 || c.status == 304 {
		c.chunked, c.length = false, 0
	}
	return nil
}

// finish reads what is left of a reply into c.body, and says what was wrong.
func (c *conn) finish(err error, want int, method, path string) error {
	if err == nil && c.length >= 0 && !c.chunked {
		if int64(cap(c.body)) < c.length {
			c.body = make([]byte, c.length)
		}
		c.body = c.body[:c.length]
		_, err = io.ReadFull(c.r, c.body)
	} else if err == nil {
		if c.body, err = io.ReadAll(c.reader()); err == nil && c.chunked {
			err = c.trailer()
		}
	}
	if err != nil {
		return c.wrong(method, path, err)
	}
	if c.status != want {
		return fmt.Errorf("%s: %s %s = %d, want %d\n%.500s", c.server.name, method, path, c.status, want, c.body)
	}
	return nil
}

func (c *conn) readHead() error {
	c.location, c.digest, c.length, c.chunked, c.closes = "", "", -1, false, false
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < len("HTTP/1.1 200\r\n") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return fmt.Errorf("a reply begins with %q", line)
	}
	c.closes = line[len("HTTP/1.")] == '0'
	if c.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return err
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		name, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !ok {
			if len(name) > 0 {
				return fmt.Errorf("a header line is %q", line)
			}
			return nil
		}
		if err := c.headerLine(name, bytes.TrimSpace(value)); err != nil {
			return err
		}
	}
}

// headerLine takes note of what the client goes by.
func (c *conn) headerLine(name, value []byte) (err error) {
	is := func(s string) bool { return len(name) == len(s) && strings.EqualFold(string(name), s) }
	switch {
	case is("Content-Length"):
		c.length, err = strconv.ParseInt(string(value), 10, 64)
	case is("Transfer-Encoding"):
		c.chunked = strings.EqualFold(string(value), "chunked")
	case is("Connection"):
		c.closes = c.closes || strings.EqualFold(string(value), "close")
	case is("Docker-Content-Digest"):
		c.digest = string(value)
	case is("Location"):
		c.location = string(value)
		if !strings.HasPrefix(c.location, "/") {
			u, err := url.Parse(c.location)
			if err != nil || !u.IsAbs() || u.Host != c.server.addr {
				return fmt.Errorf("its Location %q is neither a path nor of %s", value, c.server.addr)
			}
			c.location = u.RequestURI()
		}
	}
	return err
}

// reader reads the body of the reply.
func (c *conn) reader() io.Reader {
	switch {
	case c.chunked:
		return httputil.NewChunkedReader(c.r)
	case c.length >= 0:
		return io.LimitReader(c.r, c.length)
	}
	c.closes = true
	return c.r
}

// trailer reads what follows the last chunk.
func (c *conn) trailer() error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil || len(bytes.TrimSpace(line)) == 0 {
			return err
		}
	}
}
