//go:build !linux

package e2e

import (
	"errors"
	"os"
)

func openPTY(rows, columns uint16) (pty, tty *os.File, err error) {
	return nil, nil, errors.ErrUnsupported
}
