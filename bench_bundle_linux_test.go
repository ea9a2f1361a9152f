// How fast images come in and go out, beside loops that only read, hash, write and sync the same bytes.

package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const (
	bundleLayers    = 4
	bundleLayerSize = 128 << 20
)

// largeBundle is an archive of one image of large layers, and the data directory that it came from.
func largeBundle(b *testing.B, program string) (archive, dir string) {
	b.Helper()
	dir = b.TempDir()
	p := startProgram(b, program, dir)
	c := newBenchClient(1)
	var layers []string
	for i := range bundleLayers {
		h := sha256.New()
		location, err := c.location("POST", p.url+"/v2/bench/blobs/uploads/", nil, 202)
		if err == nil {
			body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), bundleLayerSize), h)
			err = c.send("PATCH", p.url+location, nil, body, 202)
		}
		d := fmt.Sprintf("sha256:%x", h.Sum(nil))
		if err == nil {
			err = c.send("PUT", p.url+location+"?digest="+d, nil, nil, 201)
		}
		if err != nil {
			b.Fatal(err)
		}
		layers = append(layers, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, typeOCILayer, d, bundleLayerSize))
	}
	p.stop()
	cfg := newRegistry(b, func(c *config) { c.dir, c.writeTwice = dir, false })
	cfg.start()
	cfg.pushBlob("bench", "{}")
	list := layers[0]
	for _, l := range layers[1:] {
		list += "," + l
	}
	cfg.want(201, "PUT", "/v2/bench/manifests/x", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`,
		typeOCIManifest, descriptorJSON(typeOCIConfig, "{}"), list), "Content-Type: "+typeOCIManifest)
	cfg.http.Close()
	if err := cfg.st.close(); err != nil {
		b.Fatal(err)
	}
	archive = filepath.Join(b.TempDir(), "large.tar")
	if out, err := exec.Command(program, "export", archive, "bench:x", "--data", dir).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return archive, dir
}

// copyFile reads a file, and writes it to another, synced; hashing is optional.
func copyFile(from, to string, hashing bool) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	h, buffer := sha256.New(), make([]byte, benchBuffer)
	for {
		n, err := f.Read(buffer)
		if hashing {
			h.Write(buffer[:n])
		}
		if _, err := out.Write(buffer[:n]); err != nil {
			return err
		}
		if err == io.EOF {
			return syncData(out)
		}
		if err != nil {
			return err
		}
	}
}

// runProgram runs the program, and returns the most memory it had, in MiB.
func runProgram(program string, args ...string) (peak float64, err error) {
	cmd := exec.Command(program, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	return float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024, nil
}

func BenchmarkBundle(b *testing.B) {
	program := buildProgram(b)
	archive, dir := largeBundle(b, program)
	place := b.TempDir()
	limit := func(hashing bool) func(int) error {
		return func(n int) error {
			for range n {
				to := filepath.Join(place, "limit")
				if err := copyFile(archive, to, hashing); err != nil {
					return err
				}
				os.Remove(to)
			}
			return nil
		}
	}
	b.Run("import", func(b *testing.B) {
		b.SetBytes(bundleLayers * bundleLayerSize)
		var peak float64
		var fresh string
		against(b, "loop", 1, func(int) error {
			os.RemoveAll(fresh)
			fresh = filepath.Join(b.TempDir(), "data")
			st := newRegistry(b, func(c *config) { c.dir = fresh })
			st.start()
			st.http.Close()
			return st.st.close()
		}, limit(true), func(int) error {
			most, err := runProgram(program, "import", archive, "--data", fresh)
			peak = max(peak, most)
			return err
		})
		b.ReportMetric(peak, "peak-MiB")
	})
	b.Run("export", func(b *testing.B) {
		b.SetBytes(bundleLayers * bundleLayerSize)
		var peak float64
		to := filepath.Join(place, "export.tar")
		against(b, "loop", 1, func(int) error { os.Remove(to); return nil }, limit(false), func(int) error {
			most, err := runProgram(program, "export", to, "bench:x", "--data", dir)
			peak = max(peak, most)
			return err
		})
		b.ReportMetric(peak, "peak-MiB")
	})
}
