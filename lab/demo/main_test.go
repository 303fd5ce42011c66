package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func newServer(t *testing.T, version string, ready bool) *httptest.Server {
	t.Helper()
	var flag atomic.Bool
	flag.Store(ready)
	server := httptest.NewServer(newHandler(version, "pod-1", &flag))
	t.Cleanup(server.Close)
	return server
}

func callFor(t *testing.T, arguments ...string) tally {
	t.Helper()
	var out bytes.Buffer
	if err := call(arguments, &out); err != nil {
		t.Fatal(err)
	}
	var found tally
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	return found
}

func TestAnswerNamesVersionHostAndPath(t *testing.T) {
	response, err := http.Get(newServer(t, "v2", true).URL + "/cart")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got answer
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if want := (answer{Version: "v2", Host: "pod-1", Path: "/cart"}); got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestCallCountsVersions(t *testing.T) {
	server := newServer(t, "v1", true)
	got := callFor(t, "--url", server.URL, "--count", "50", "--concurrency", "4")
	if got.Requests != 50 || got.OK != 50 || got.Versions["v1"] != 50 || got.Statuses["200"] != 50 {
		t.Fatalf("got %+v", got)
	}
}

func TestFailedRequestsAreCountedNotReturned(t *testing.T) {
	server := newServer(t, "v1", false)
	got := callFor(t, "--url", server.URL+"/healthz", "--count", "3")
	if got.Failed != 3 || got.Errors["status 503"] != 3 {
		t.Fatalf("got %+v", got)
	}
	server.Close()
	got = callFor(t, "--url", server.URL, "--count", "2")
	if got.Errors["connection refused"] != 2 {
		t.Fatalf("got %+v", got)
	}
}

func TestDurationAndRateLimitRequests(t *testing.T) {
	server := newServer(t, "v1", true)
	started := time.Now()
	got := callFor(t, "--url", server.URL, "--duration", "500ms", "--rate", "20")
	if took := time.Since(started); took < 400*time.Millisecond || took > 5*time.Second {
		t.Fatalf("took %v", took)
	}
	if got.Requests < 5 || got.Requests > 11 {
		t.Fatalf("sent %d requests, want about 10", got.Requests)
	}
}

func TestBadUsageIsAnError(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"--url", "nohost"}, {"--url", "http://h", "--count", "0"}, {"--url", "http://h", "x"},
	} {
		if err := call(arguments, &bytes.Buffer{}); err == nil {
			t.Errorf("%q was accepted", arguments)
		}
	}
}
