// How a registry and its machine are, seen on the server.

package main

import (
	"context"
)

func serverDoctor(ctx context.Context, cfg *config, out *console) *diagnoses { return &diagnoses{} }

func doctorOnStore(ctx context.Context, st *store, o options, out *console) error { return nil }
