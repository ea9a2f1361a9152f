// `berth log-level`: how much a running server logs, without a restart.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// checkLogLevelCommand refuses what is no level, and no time that it could have.
func checkLogLevelCommand(cfg *config) error {
	if len(cfg.Args) == 0 {
		if cfg.given["for"] {
			return errors.New("--for needs a level: berth log-level debug --for 10m")
		}
		return nil
	}
	if _, err := parseLevel(cfg.Args[0]); err != nil {
		return err
	}
	if cfg.given["for"] && cfg.For <= 0 {
		return errors.New("--for: name a time that is longer than 0, such as 10m")
	}
	return nil
}

// logLevelCommand is `berth log-level [LEVEL]`.
func logLevelCommand(_ context.Context, st *store, o options, out *console) error {
	if !st.host.serves() || st.level == nil {
		return fmt.Errorf("no server runs on %s, so there is no level to show or change; a server takes it from --log-level when it starts", st.dir)
	}
	if len(o.Args) > 0 {
		level, err := parseLevel(o.Args[0])
		if err != nil {
			return err
		}
		st.level.change(level, o.For, func() {
			st.audit("log level changed", "level", levelName(st.level.usual))
		})
		st.audit("log level changed", "level", levelName(level), "account", o.Who)
	}
	level, until := st.level.now()
	usual := levelName(st.level.usual)
	if o.JSON {
		answer := struct {
			Level string     `json:"level"`
			Until *time.Time `json:"until,omitempty"`
			Usual string     `json:"usual"`
		}{Level: levelName(level), Usual: usual}
		if !until.IsZero() {
			until = until.UTC().Truncate(time.Second)
			answer.Until = &until
		}
		return out.json(answer)
	}
	switch {
	case !until.IsZero():
		out.printf("%s until %s, then %s\n", levelName(level), out.formatTime(until, "2006-01-02 15:04:05"), usual)
	case level != st.level.usual:
		out.printf("%s until the server ends, then %s\n", levelName(level), usual)
	default:
		out.printf("%s\n", usual)
	}
	return nil
}

// levelName is a level as --log-level takes it.
func levelName(level slog.Level) string { return strings.ToLower(level.String()) }
