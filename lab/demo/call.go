package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// tally is what a run of calls found; it is printed as one JSON object.
type tally struct {
	Requests int            `json:"requests"`
	OK       int            `json:"ok"`
	Failed   int            `json:"failed"`
	Versions map[string]int `json:"versions"`
	Statuses map[string]int `json:"statuses"`
	Errors   map[string]int `json:"errors"`
}

type outcome struct {
	status  int
	version string
	problem string
}

func newTally() *tally {
	return &tally{Versions: map[string]int{}, Statuses: map[string]int{}, Errors: map[string]int{}}
}

func (t *tally) add(o outcome) {
	t.Requests++
	if o.status != 0 {
		t.Statuses[strconv.Itoa(o.status)]++
	}
	if o.version != "" {
		t.Versions[o.version]++
	}
	if o.problem != "" {
		t.Failed++
		t.Errors[o.problem]++
		return
	}
	t.OK++
}

// plan says how many calls to make and how fast.
type plan struct {
	url         string
	count       int
	concurrency int
	timeout     time.Duration
	duration    time.Duration
	rate        float64
	fresh       bool
}

func parsePlan(arguments []string) (plan, error) {
	var p plan
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	flags.StringVar(&p.url, "url", "", "URL to call")
	flags.IntVar(&p.count, "count", 1, "requests to send; ignored with --duration")
	flags.IntVar(&p.concurrency, "concurrency", 1, "requests in flight at most")
	flags.DurationVar(&p.timeout, "timeout", 5*time.Second, "for one request")
	flags.DurationVar(&p.duration, "duration", 0, "send for this long instead of --count requests")
	flags.Float64Var(&p.rate, "rate", 0, "requests per second; 0: as fast as they are answered")
	flags.BoolVar(&p.fresh, "fresh", false, "a new connection for every request")
	if err := flags.Parse(arguments); err != nil {
		return p, err
	}
	target, err := url.Parse(p.url)
	switch {
	case err != nil:
		return p, err
	case target.Host == "":
		return p, errors.New("--url needs a URL with a host")
	case flags.NArg() > 0:
		return p, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case p.count < 1 || p.concurrency < 1 || p.timeout <= 0 || p.rate < 0 || p.duration < 0:
		return p, errors.New("--count, --concurrency and --timeout must be positive")
	}
	return p, nil
}

// call sends the requests and prints the tally; failed requests are no error.
func call(arguments []string, out io.Writer) error {
	p, err := parsePlan(arguments)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(run(p))
}

func run(p plan) *tally {
	transport := &http.Transport{MaxIdleConnsPerHost: p.concurrency, DisableKeepAlives: p.fresh}
	client := &http.Client{Timeout: p.timeout, Transport: transport}
	tickets := make(chan struct{})
	outcomes := make(chan outcome)
	go issue(p, tickets)
	var workers sync.WaitGroup
	for range p.concurrency {
		workers.Go(func() {
			for range tickets {
				outcomes <- fetch(client, p.url)
			}
		})
	}
	go func() {
		workers.Wait()
		close(outcomes)
	}()
	result := newTally()
	for o := range outcomes {
		result.add(o)
	}
	return result
}

// issue hands out one ticket a request, at the plan's rate, and closes at its end.
func issue(p plan, tickets chan<- struct{}) {
	defer close(tickets)
	started := time.Now()
	for sent := 0; ; sent++ {
		if p.rate > 0 {
			due := started.Add(time.Duration(float64(sent) / p.rate * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		if p.duration > 0 && time.Since(started) >= p.duration {
			return
		}
		if p.duration == 0 && sent >= p.count {
			return
		}
		tickets <- struct{}{}
	}
}

func fetch(client *http.Client, target string) outcome {
	response, err := client.Get(target)
	if err != nil {
		return outcome{problem: reason(err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	o := outcome{status: response.StatusCode}
	if err != nil {
		o.problem = reason(err)
		return o
	}
	if response.StatusCode >= http.StatusBadRequest {
		o.problem = "status " + strconv.Itoa(response.StatusCode)
		return o
	}
	var a answer
	if json.Unmarshal(body, &a) == nil {
		o.version = a.Version
	}
	return o
}

// reason shortens an error to what it is about, so that equal failures count as one.
func reason(err error) string {
	var timeout net.Error
	var name *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &name):
		return "name not found"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return err.Error()
}
