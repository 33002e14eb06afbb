// A Plexus client: chats, cancels, handles typed errors, resumes a dropped stream.
// Usage: go run . [host:port]; PLEXUS_ADDRESS and PLEXUS_API_KEY are read too.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	cachev1 "plexus.example/build/plexus/cache/v1"
	commonv1 "plexus.example/build/plexus/common/v1"
	gatewayv1 "plexus.example/build/plexus/gateway/v1"
)

//go:generate buf generate

const timeout = time.Minute

var noCache = &cachev1.CacheControl{NoCache: true}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, cmp.Or(reason(err), "failed")+":", err)
		os.Exit(1)
	}
}

func run() error {
	address := cmp.Or(os.Getenv("PLEXUS_ADDRESS"), "127.0.0.1:50050")
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()

	ctx, stop := context.WithTimeout(context.Background(), timeout)
	defer stop()
	if key := os.Getenv("PLEXUS_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	client := client{gatewayv1.NewGatewayServiceClient(connection)}
	for _, step := range []func(context.Context) error{client.chat, client.cancel, client.errors, client.resume} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

type client struct {
	gateway gatewayv1.GatewayServiceClient
}

// chat prints the answer as it comes.
func (c client) chat(ctx context.Context) error {
	for event, err := range c.events(ctx, ask("What can you do for me?", &gatewayv1.Turn{})) {
		if err != nil {
			return err
		}
		switch is := event.Event.(type) {
		case *gatewayv1.ChatResponse_Text:
			fmt.Print(is.Text)
		case *gatewayv1.ChatResponse_Reset_:
			fmt.Printf("\n(once more: %s)\n", is.Reset_.Why)
		case *gatewayv1.ChatResponse_Failed:
			return fmt.Errorf("%s: %s", is.Failed.Reason, is.Failed.Message)
		case *gatewayv1.ChatResponse_Completed:
			fmt.Printf("\nchat: ok %s/%s\n", is.Completed.Provider, is.Completed.Model)
		}
	}
	return nil
}

// cancel leaves an answer in the middle: the mesh stops the model and books what was used.
func (c client) cancel(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := ""
	for event, err := range c.events(ctx, ask("Tell me a long story.", &gatewayv1.Turn{Cache: noCache})) {
		if status.Code(err) == codes.Canceled {
			break
		}
		if err != nil {
			return err
		}
		switch is := event.Event.(type) {
		case *gatewayv1.ChatResponse_Started:
			run = is.Started.RequestId
		case *gatewayv1.ChatResponse_Text:
			cancel()
		}
	} // Or the answer was short, and whole before we cancelled.
	fmt.Println("cancel: ok", run)
	return nil
}

// errors fails in both ways: a call that is refused has a status, a turn that breaks a failed event.
func (c client) errors(ctx context.Context) error {
	refused := ask("Hello.", &gatewayv1.Turn{Scope: &commonv1.Scope{Tenant: "someone-else"}})
	broken := ask("Hello.", &gatewayv1.Turn{Request: &commonv1.ModelRequest{Model: "no-such-model"}})
	var reasons []string
	for _, request := range []*gatewayv1.ChatRequest{refused, broken} {
		for event, err := range c.events(ctx, request) {
			if err != nil {
				reasons = append(reasons, reason(err))
			} else if failed := event.GetFailed(); failed != nil {
				reasons = append(reasons, failed.Reason)
			}
		}
	}
	if got := fmt.Sprint(reasons); got != "[TENANT_MISMATCH MODEL_NOT_FOUND]" {
		return fmt.Errorf("unexpected reasons %s", got)
	}
	for _, reason := range reasons {
		fmt.Println("error:", reason)
	}
	return nil
}

// resume loses the connection after the first text and reads the rest, without gap or repetition.
func (c client) resume(ctx context.Context) error {
	var token string
	var last int64
	turn := &gatewayv1.Turn{Cache: noCache, ResumeWindowMs: 10_000}
	for event, err := range c.events(ctx, ask("Tell me another story.", turn)) {
		if err != nil {
			return err
		}
		if last++; event.Sequence != last {
			return fmt.Errorf("event %d came where %d was due", event.Sequence, last)
		}
		if started := event.GetStarted(); started != nil {
			token = started.ResumeToken
		}
		if event.GetText() != "" {
			break
		}
	}
	fmt.Println("resume: dropped after event", last)

	again := &gatewayv1.ChatRequest_Resume{Resume: &gatewayv1.Resume{ResumeToken: token, AfterSequence: last}}
	completed := false
	for event, err := range c.events(ctx, &gatewayv1.ChatRequest{Action: again}) {
		if err != nil {
			return err
		}
		if last++; event.Sequence != last {
			return fmt.Errorf("event %d came where %d was due", event.Sequence, last)
		}
		completed = event.GetCompleted() != nil
	}
	if !completed {
		return errors.New("the resumed stream did not complete")
	}
	fmt.Println("resume: ok", last, "events")
	return nil
}

// ask returns a request that says text; the rest of the turn is as given.
func ask(text string, turn *gatewayv1.Turn) *gatewayv1.ChatRequest {
	if turn.Request == nil {
		turn.Request = &commonv1.ModelRequest{}
	}
	said := &commonv1.Part{Kind: &commonv1.Part_Text{Text: text}}
	turn.Request.Messages = []*commonv1.Message{{Role: commonv1.Role_ROLE_USER, Parts: []*commonv1.Part{said}}}
	return &gatewayv1.ChatRequest{Action: &gatewayv1.ChatRequest_Turn{Turn: turn}}
}

// events opens a stream and yields its events; leaving the loop cancels the call.
func (c client) events(ctx context.Context, request *gatewayv1.ChatRequest) iter.Seq2[*gatewayv1.ChatResponse, error] {
	return func(yield func(*gatewayv1.ChatResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.gateway.Chat(ctx, request)
		for err == nil {
			var event *gatewayv1.ChatResponse
			if event, err = stream.Recv(); err == nil && !yield(event, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

// reason returns the stable reason that the mesh gave with a failed call.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}
