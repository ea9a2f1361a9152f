//go:build race

package main

// underRace: the race detector is in the program.
const underRace = true
