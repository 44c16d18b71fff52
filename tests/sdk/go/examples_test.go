package sdktests

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

const times = 10

// The calls of the SDK's own example programs in their order: send, then open the stream, and read until the session rests.
func TestTheFirstProgramReadsItsAnswerAndEnds(t *testing.T) {
	for _, model := range []string{"playbook", "claude-haiku-4-5"} {
		t.Run(model, func(t *testing.T) {
			agent, err := client.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
				Name:  unique(t, "example"),
				Model: anthropic.BetaManagedAgentsModelConfigParams{ID: anthropic.BetaManagedAgentsModel(model)},
				Tools: []anthropic.BetaAgentNewParamsToolUnion{
					{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{}},
				},
			})
			must(t, agent, err)
			for range times {
				if types := program(t, agent.ID); !slices.Contains(types, "agent.message") {
					t.Errorf("no answer in %q", types)
				}
			}
		})
	}
}

// program returns the type of each event up to the session's rest.
func program(t *testing.T, agentID string) (types []string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	session, err := client.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
		EnvironmentID: newEnvironment(t).ID,
		Agent:         anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agentID)},
	})
	must(t, session, err)
	sent, err := client.Beta.Sessions.Events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{
		Events: []anthropic.BetaManagedAgentsEventParamsUnion{{OfUserMessage: message("echo hello")}},
	})
	must(t, sent, err)
	stream := client.Beta.Sessions.Events.StreamEvents(
		ctx, session.ID, anthropic.BetaSessionEventStreamParams{}, option.WithRequestTimeout(time.Minute))
	defer stream.Close()
	for stream.Next() {
		event := must(t, stream.Current(), nil)
		types = append(types, event.Type)
		if event.Type == "session.status_idle" {
			return types
		}
	}
	t.Fatalf("the stream ended before the session came to rest: %v", stream.Err())
	return nil
}
