package main

// The limit: the least that a server in Go can do and still keep a registry's promise, so that a rate
// beside it says how much of the machine a registry makes use of. It answers the same requests as the
// registries and in the same order, so a round trip that the protocol demands is in both. It hashes what
// it is sent, compares the digest, and syncs the bytes and the name before it says 201. That is all: no
// database, no links between repositories, blobs and tags, no check of a manifest, no log, and no memory
// of manifests after a restart. It is a child process of this program, so its figures are of a process of
// its own like everybody else's.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// limitEnv, when set to ADDRESS=DIRECTORY, makes this program the limit's server.
const limitEnv = "BERTH_BENCH_LIMIT"

const (
	limitBuffer  = 256 << 10 // of reads and writes
	limitBuffers = 4         // for each upload in progress: 1 MiB
	writeback    = 8 << 20   // written before the kernel is asked to begin with it
)

// serveLimit serves until it is killed, if the environment says so; else it returns at once.
func serveLimit() {
	addr, dir, ok := strings.Cut(os.Getenv(limitEnv), "=")
	if !ok {
		return
	}
	err := os.MkdirAll(filepath.Join(dir, "files"), 0o755)
	if err == nil {
		l := &limit{dir: filepath.Join(dir, "files"), uploads: map[string]*upload{}}
		err = http.ListenAndServe(addr, l.routes())
	}
	fmt.Fprintln(os.Stderr, "limit:", err)
	os.Exit(1)
}

type limit struct {
	dir       string
	count     atomic.Uint64 // of names given to uploads
	manifests sync.Map      // repository/reference → *manifest
	small     sync.Pool     // of *[]byte with limitBuffer bytes

	mu      sync.Mutex // guards uploads
	uploads map[string]*upload
}

type manifest struct {
	body           []byte
	digest, length string
}

func (l *limit) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, r *http.Request) {})
	mux.HandleFunc("POST /v2/{repo}/blobs/uploads/{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Path+strconv.FormatUint(l.count.Add(1), 10))
		w.WriteHeader(202)
	})
	mux.HandleFunc("PATCH /v2/{repo}/blobs/uploads/{id}", answer(202, l.patchUpload))
	mux.HandleFunc("PUT /v2/{repo}/blobs/uploads/{id}", answer(201, l.putUpload))
	mux.HandleFunc("GET /v2/{repo}/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream") // else the file is read for a guess
		http.ServeFile(w, r, filepath.Join(l.dir, filepath.Base(r.PathValue("digest"))))
	})
	mux.HandleFunc("PUT /v2/{repo}/manifests/{tag}", answer(201, l.putManifest))
	mux.HandleFunc("GET /v2/{repo}/manifests/{tag}", l.getManifest)
	return mux
}

// answer is a handler that says status, or 500 and the error.
func answer(status int, do func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := do(w, r); err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		w.WriteHeader(status)
	}
}

func (l *limit) patchUpload(w http.ResponseWriter, r *http.Request) error {
	u, err := l.upload(r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Location", r.URL.Path)
	return u.append(r.Body)
}

// putUpload ends an upload. A blob that comes whole and fits in one buffer has nothing to gain from a
// goroutine.
func (l *limit) putUpload(w http.ResponseWriter, r *http.Request) error {
	id, digest := r.PathValue("id"), r.URL.Query().Get("digest")
	l.mu.Lock()
	_, begun := l.uploads[id]
	l.mu.Unlock()
	if !begun && r.ContentLength >= 0 && r.ContentLength <= limitBuffer {
		buffer, _ := l.small.Get().(*[]byte)
		if buffer == nil {
			buffer = new([]byte)
			*buffer = make([]byte, limitBuffer)
		}
		defer l.small.Put(buffer)
		content := (*buffer)[:r.ContentLength]
		if _, err := io.ReadFull(r.Body, content); err != nil {
			return err
		}
		if got := digestOf(content); got != digest {
			return fmt.Errorf("digest is %s", got)
		}
		return l.keep(id, digest, content)
	}
	u, err := l.upload(id)
	if err != nil {
		return err
	}
	l.mu.Lock()
	delete(l.uploads, id)
	l.mu.Unlock()
	defer u.file.Close()
	if r.ContentLength != 0 {
		if err := u.append(r.Body); err != nil {
			return err
		}
	}
	close(u.full)
	<-u.hashed
	if got := "sha256:" + hex.EncodeToString(u.hash.Sum(nil)); got != digest {
		return fmt.Errorf("digest is %s", got)
	}
	return l.name(u.file, digest)
}

func (l *limit) putManifest(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	m := &manifest{body, digestOf(body), strconv.Itoa(len(body))}
	if err := l.keep(strconv.FormatUint(l.count.Add(1), 10), r.PathValue("repo")+":"+r.PathValue("tag"), body); err != nil {
		return err
	}
	l.manifests.Store(r.PathValue("repo")+"/"+r.PathValue("tag"), m)
	w.Header().Set("Docker-Content-Digest", m.digest)
	return nil
}

func (l *limit) getManifest(w http.ResponseWriter, r *http.Request) {
	v, ok := l.manifests.Load(r.PathValue("repo") + "/" + r.PathValue("tag"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	m := v.(*manifest)
	h := w.Header()
	h.Set("Content-Length", m.length)
	h.Set("Content-Type", manifestType)
	h.Set("Docker-Content-Digest", m.digest)
	h.Set("Etag", `"`+m.digest+`"`)
	w.Write(m.body)
}

// keep makes a durable file of content.
func (l *limit) keep(temporary, name string, content []byte) error {
	f, err := os.Create(filepath.Join(l.dir, temporary))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return l.name(f, name)
}

// name syncs a file, gives it its name, and syncs that.
func (l *limit) name(f *os.File, name string) error {
	if err := syncData(f); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(l.dir, filepath.Base(name))); err != nil {
		return err
	}
	return syncDir(l.dir)
}

// An upload is written by the handler and hashed by a goroutine, which ends when full is closed.
type upload struct {
	file       *os.File
	at, behind int64 // bytes written; bytes that the kernel was asked to begin with
	hash       hash.Hash
	free, full chan []byte
	hashed     chan struct{}
}

// upload returns the upload of this id, and begins it if there is none.
func (l *limit) upload(id string) (*upload, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.uploads[id]; u != nil {
		return u, nil
	}
	f, err := os.Create(filepath.Join(l.dir, filepath.Base(id)))
	if err != nil {
		return nil, err
	}
	u := &upload{file: f, hash: sha256.New(), hashed: make(chan struct{}),
		free: make(chan []byte, limitBuffers), full: make(chan []byte, limitBuffers)}
	for range limitBuffers {
		u.free <- make([]byte, limitBuffer)
	}
	go func() {
		defer close(u.hashed)
		for p := range u.full {
			u.hash.Write(p)
			u.free <- p[:limitBuffer]
		}
	}()
	l.uploads[id] = u
	return u, nil
}

// append writes body to the end of the file, and begins to write back as it goes.
func (u *upload) append(body io.Reader) error {
	for {
		p := <-u.free
		n, err := io.ReadFull(body, p)
		u.full <- p[:n]
		if _, err := u.file.Write(p[:n]); err != nil {
			return err
		}
		u.at += int64(n)
		if u.at-u.behind >= writeback {
			startWriteback(u.file, u.behind, u.at-u.behind)
			u.behind = u.at
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
