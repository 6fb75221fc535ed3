// The reference's design in Go: one mutex around publishing, json.Marshal of the whole envelope to know its size, a
// ring behind a RWMutex that holds envelopes, and a channel that is closed to wake the readers.
//
// Reads commands from standard input, one a line, and answers each with one line of nanoseconds:
//
//	bytes N    publish and read N events in turn, and marshal what was read; nanoseconds an event
//	parsed N   the same without marshalling: a reader gets the envelope as it is
//	publish N  publish N events
//	wake N     N times: wake a reader that waits; nanoseconds each, separated by spaces
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

type Source struct {
	Kind     string            `json:"kind"`
	Event    string            `json:"event,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

type Event struct {
	Ts        int64           `json:"ts"`
	Type      string          `json:"type"`
	Category  string          `json:"category"`
	Source    Source          `json:"source"`
	Data      json.RawMessage `json:"data,omitempty"`
	Truncated bool            `json:"truncated,omitempty"`
}

type Envelope struct {
	Seq   uint64 `json:"seq"`
	Event Event  `json:"event"`
}

const (
	capacity = 1024
	maxBytes = 1_000_000
)

type ring struct {
	mu     sync.RWMutex
	slots  []Envelope
	newest uint64
	wake   chan struct{}
}

func newRing() *ring {
	return &ring{slots: make([]Envelope, capacity), wake: make(chan struct{})}
}

func (r *ring) publish(envelope Envelope) {
	r.mu.Lock()
	r.slots[envelope.Seq%capacity] = envelope
	r.newest = envelope.Seq
	woken := r.wake
	r.wake = make(chan struct{})
	r.mu.Unlock()
	close(woken)
}

// A publisher of the ring: numbers events, and cuts the data of what is too large.
type session struct {
	mu   sync.Mutex
	seq  uint64
	ring *ring
}

func (s *session) publish(event Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	envelope := Envelope{Seq: s.seq, Event: event}
	if encoded, err := json.Marshal(envelope); err != nil || len(encoded) > maxBytes {
		envelope.Event.Data = json.RawMessage("null")
		envelope.Event.Truncated = true
	}
	s.ring.publish(envelope)
}

type reader struct {
	ring *ring
	next uint64
	lost uint64
}

func (r *reader) read(ctx context.Context) (Envelope, error) {
	for {
		r.ring.mu.RLock()
		newest, wake := r.ring.newest, r.ring.wake
		if r.next <= newest {
			if oldest := newest - min(newest, capacity) + 1; r.next < oldest {
				r.lost += oldest - r.next
				r.next = oldest
			}
			envelope := r.ring.slots[r.next%capacity]
			r.ring.mu.RUnlock()
			r.next++
			return envelope, nil
		}
		r.ring.mu.RUnlock()
		select {
		case <-ctx.Done():
			return Envelope{}, ctx.Err()
		case <-wake:
		}
	}
}

func min(a, b uint64) uint64 {
	if a < b {
		return a
	}
	return b
}

var event = Event{
	Ts:       1_795_346_234_966_162,
	Type:     "console_log",
	Category: "console",
	Source:   Source{Kind: "cdp", Event: "Runtime.consoleAPICalled"},
	Data:     json.RawMessage(`{"message":"hello","level":"log"}`),
}

var sink int

func newPair() (*session, *reader) {
	ring := newRing()
	return &session{ring: ring}, &reader{ring: ring, next: 1}
}

func inTurn(s *session, r *reader, events int, use func(Envelope)) float64 {
	start := time.Now()
	for i := 0; i < events; i++ {
		s.publish(event)
		envelope, err := r.read(context.Background())
		if err != nil {
			panic(err)
		}
		use(envelope)
	}
	return perEvent(start, events)
}

func perEvent(start time.Time, events int) float64 {
	return float64(time.Since(start).Nanoseconds()) / float64(events)
}

func wakes(events int) []int64 {
	s, r := newPair()
	start := time.Now()
	var sent, seen atomic.Int64
	latencies := make([]int64, events)
	go func() {
		for i := range latencies {
			r.read(context.Background())
			latencies[i] = time.Since(start).Nanoseconds() - sent.Load()
			seen.Store(int64(i) + 1)
		}
	}()
	for i := 0; i < events; i++ {
		for rest := time.Now(); time.Since(rest) < 200*time.Microsecond; {
		}
		sent.Store(time.Since(start).Nanoseconds())
		s.publish(event)
		for seen.Load() <= int64(i) {
		}
	}
	return latencies
}

func main() {
	s, r := newPair()
	only, _ := newPair()
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		var command string
		var events int
		if _, err := fmt.Sscan(commands.Text(), &command, &events); err != nil {
			fmt.Fprintf(os.Stderr, "%q: a command and a number are expected: %v\n", commands.Text(), err)
			os.Exit(2)
		}
		switch command {
		case "bytes":
			fmt.Println(inTurn(s, r, events, func(envelope Envelope) {
				encoded, err := json.Marshal(envelope)
				if err != nil {
					panic(err)
				}
				sink += len(encoded)
			}))
		case "parsed":
			fmt.Println(inTurn(s, r, events, func(envelope Envelope) { sink += len(envelope.Event.Data) }))
		case "publish":
			start := time.Now()
			for i := 0; i < events; i++ {
				only.publish(event)
			}
			fmt.Println(perEvent(start, events))
		case "wake":
			fmt.Println(fmt.Sprint(wakes(events)))
		default:
			fmt.Fprintf(os.Stderr, "%q is no command: bytes, parsed, publish and wake are\n", command)
			os.Exit(2)
		}
	}
}
