package main

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	health_v1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What a gRPC answer tells in its trailer, as an HTTP answer in its body.
const (
	versionKey = "x-version"
	podKey     = "x-pod"
)

// codeOf is the gRPC status for an HTTP status, by the table in google/rpc/code.proto.
var codeOf = map[int]codes.Code{
	http.StatusOK:                  codes.OK,
	http.StatusBadRequest:          codes.InvalidArgument,
	http.StatusUnauthorized:        codes.Unauthenticated,
	http.StatusForbidden:           codes.PermissionDenied,
	http.StatusNotFound:            codes.NotFound,
	http.StatusConflict:            codes.Aborted,
	http.StatusTooManyRequests:     codes.ResourceExhausted,
	http.StatusInternalServerError: codes.Internal,
	http.StatusNotImplemented:      codes.Unimplemented,
	http.StatusServiceUnavailable:  codes.Unavailable,
	http.StatusGatewayTimeout:      codes.DeadlineExceeded,
}

// newGRPCServer answers gRPC's standard health check, with the same faults as the rest.
func newGRPCServer(h *handler) *grpc.Server {
	server := grpc.NewServer(grpc.UnaryInterceptor(h.answerCall))
	health_v1.RegisterHealthServer(server, health.NewServer())
	return server
}

func (h *handler) answerCall(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	host := ""
	if found := metadata.ValueFromIncomingContext(ctx, ":authority"); len(found) > 0 {
		host = found[0]
	}
	met := h.meet(ctx, host)
	// Not in the header: an error is then an answer of one frame, which proxies can try again.
	if err := grpc.SetTrailer(ctx, metadata.Pairs(versionKey, h.version, podKey, h.pod)); err != nil {
		return nil, err
	}
	code, known := codeOf[met]
	if !known {
		code = codes.Unknown
	}
	if code != codes.OK {
		return nil, status.Error(code, http.StatusText(met))
	}
	return next(ctx, request)
}

// grpcFetcher calls the health check of a server over one connection, as clients do.
func grpcFetcher(p *plan) (fetcher, func(), error) {
	trust := insecure.NewCredentials()
	target, err := url.Parse(p.url)
	if err != nil {
		return nil, nil, err
	}
	if target.Scheme == "https" {
		config, err := p.tls()
		if err != nil {
			return nil, nil, err
		}
		trust = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(trust), grpc.WithDisableRetry()}
	if p.host != "" {
		options = append(options, grpc.WithAuthority(p.host))
	}
	connection, err := grpc.NewClient("passthrough:///"+target.Host, options...)
	if err != nil {
		return nil, nil, err
	}
	client := health_v1.NewHealthClient(connection)
	fetch := func() outcome {
		ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
		defer cancel()
		for name, values := range p.headers {
			for _, value := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, name, value)
			}
		}
		var told metadata.MD
		started := time.Now()
		_, err := client.Check(ctx, &health_v1.HealthCheckRequest{}, grpc.Trailer(&told))
		o := outcome{latency: time.Since(started), status: status.Code(err).String()}
		o.version, o.pod = first(told, versionKey), first(told, podKey)
		if err != nil {
			o.problem = "gRPC status " + o.status
		}
		return o
	}
	return fetch, func() { _ = connection.Close() }, nil
}

func first(all metadata.MD, key string) string {
	if values := all.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}
