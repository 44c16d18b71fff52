package sdktests

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

var client = connect("ROTA_KEY")

// What a session tells of a message that is answered with one call of a tool.
var turn = []string{
	"session.status_running",
	"session.thread_status_running",
	"user.message",
	"span.model_request_start",
	"agent.tool_use",
	"span.model_request_end",
	"agent.tool_result",
	"span.model_request_start",
	"agent.message",
	"span.model_request_end",
	"session.thread_status_idle",
	"session.usage",
	"session.status_idle",
}

func connect(key string) anthropic.Client {
	return anthropic.NewClient(
		option.WithBaseURL(os.Getenv("ROTA_BASE_URL")),
		option.WithAPIKey(os.Getenv(key)),
		option.WithMaxRetries(0),
		option.WithRequestTimeout(30*time.Second),
	)
}

// must returns the response of a call that succeeded and fits the SDK's types exactly.
func must[Response any](t *testing.T, response Response, err error) Response {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if found := misfits(response); len(found) > 0 {
		t.Fatalf("%T: %s", response, strings.Join(found, "; "))
	}
	return response
}

func unique(t *testing.T, kind string) string {
	return fmt.Sprintf("%s of %s %d", kind, t.Name(), time.Now().UnixNano())
}

func message(script string) *anthropic.BetaManagedAgentsUserMessageEventParams {
	text := anthropic.BetaManagedAgentsTextBlockParam{
		Text: "```bash\n" + script + "\n```\n",
	}
	return &anthropic.BetaManagedAgentsUserMessageEventParams{
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &text}},
	}
}

func newAgent(t *testing.T) *anthropic.BetaManagedAgentsAgent {
	toolset := anthropic.BetaManagedAgentsAgentToolset20260401Params{}
	agent, err := client.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name:  unique(t, "agent"),
		Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "playbook"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: &toolset}},
	})
	return must(t, agent, err)
}

func newEnvironment(t *testing.T) *anthropic.BetaEnvironment {
	environment, err := client.Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
		Name: unique(t, "environment"),
	})
	return must(t, environment, err)
}

func newDeployment(t *testing.T, environmentID, script string) *anthropic.BetaManagedAgentsDeployment {
	deployment, err := client.Beta.Deployments.New(t.Context(), anthropic.BetaDeploymentNewParams{
		Name:          unique(t, "deployment"),
		Agent:         anthropic.BetaDeploymentNewParamsAgentUnion{OfString: anthropic.String(newAgent(t).ID)},
		EnvironmentID: environmentID,
		InitialEvents: []anthropic.BetaManagedAgentsDeploymentInitialEventParamsUnion{{OfUserMessage: message(script)}},
	})
	return must(t, deployment, err)
}

func run(t *testing.T, deploymentID string) *anthropic.BetaManagedAgentsDeploymentRun {
	t.Helper()
	run, err := client.Beta.Deployments.Run(t.Context(), deploymentID, anthropic.BetaDeploymentRunParams{})
	return must(t, run, err)
}

// follow returns the type of each event of a session up to its rest, and the text that its tools answered. The stream
// holds what comes after it was opened and the history what came before.
func follow(t *testing.T, sessionID string) (types []string, output string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The stream lives as long as the session works, which may be longer than a request.
	stream := client.Beta.Sessions.Events.StreamEvents(
		ctx, sessionID, anthropic.BetaSessionEventStreamParams{}, option.WithRequestTimeout(time.Minute))
	defer stream.Close()

	seen := map[string]bool{}
	note := func(id, kind, raw string) bool {
		if !seen[id] {
			seen[id] = true
			types = append(types, kind)
			if kind == "agent.tool_result" {
				output += raw
			}
		}
		return kind == "session.status_idle"
	}
	history := client.Beta.Sessions.Events.ListAutoPaging(ctx, sessionID, anthropic.BetaSessionEventListParams{})
	for history.Next() {
		event := must(t, history.Current(), nil)
		// What waits comes at its place when it is taken up.
		if !event.JSON.ProcessedAt.Valid() {
			continue
		}
		if note(event.ID, event.Type, event.RawJSON()) {
			return types, output
		}
	}
	must(t, 0, history.Err())
	for stream.Next() {
		event := must(t, stream.Current(), nil)
		if note(event.ID, event.Type, event.RawJSON()) {
			return types, output
		}
	}
	t.Fatalf("the stream ended before the session came to rest: %v", stream.Err())
	return nil, ""
}

func expectFailure(t *testing.T, err error, status int, kind anthropic.ErrorType) *anthropic.Error {
	t.Helper()
	var failure *anthropic.Error
	if !errors.As(err, &failure) {
		t.Fatalf("not an error of the API: %v", err)
	}
	if failure.StatusCode != status || failure.Type() != kind || !strings.HasPrefix(failure.RequestID, "req_") {
		t.Fatalf("%d %s %s, not %d %s", failure.StatusCode, failure.Type(), failure.RequestID, status, kind)
	}
	return failure
}

func expectSome[Item any](t *testing.T, items []Item) {
	t.Helper()
	if len(items) == 0 {
		t.Errorf("nothing in %T", items)
	}
}

func TestADocumentedRunIsValid(t *testing.T) {
	example, err := os.ReadFile(filepath.Join("..", "fixtures", "deployment_run.json"))
	must(t, 0, err)
	var run anthropic.BetaManagedAgentsDeploymentRun
	err = run.UnmarshalJSON(example)
	must(t, &run, err)
	if run.Error.Type != "environment_archived_error" || run.TriggerContext.Type != "schedule" {
		t.Fatalf("%s", run.RawJSON())
	}
}

func TestMisfitsAreFound(t *testing.T) {
	var run anthropic.BetaManagedAgentsDeploymentRun
	err := run.UnmarshalJSON([]byte(`{
		"id": "drun_1",
		"agent": {"id": "a", "type": "agent", "version": 1, "more": 1},
		"error": {"type": "unknown_error"},
		"trigger_context": {"type": "comet"}
	}`))
	must(t, 0, err)
	found := misfits(run)
	for _, expected := range []string{
		".agent.more is not documented",
		".created_at is missing",
		".error.message is missing",
		".trigger_context is none of BetaManagedAgentsTriggerContextUnion",
	} {
		if !slices.Contains(found, expected) {
			t.Errorf("%q is not in %q", expected, found)
		}
	}
}

func TestARunStartsASessionThatWorksAndRests(t *testing.T) {
	deployment := newDeployment(t, newEnvironment(t).ID, "echo run number $((40 + 2))")
	started := run(t, deployment.ID)
	if started.SessionID == "" || started.JSON.Error.Valid() || started.TriggerContext.Type != "manual" {
		t.Fatalf("%s", started.RawJSON())
	}
	types, output := follow(t, started.SessionID)
	if !strings.Contains(output, "run number 42") {
		t.Errorf("%q is not what the command prints", output)
	}
	if !slices.Equal(types, turn) {
		t.Errorf("%q, not %q", types, turn)
	}
	session, err := client.Beta.Sessions.Get(t.Context(), started.SessionID, anthropic.BetaSessionGetParams{})
	must(t, session, err)
	if session.Status != "idle" || session.DeploymentID != deployment.ID || session.Title != deployment.Name {
		t.Errorf("%s", session.RawJSON())
	}
	again, err := client.Beta.DeploymentRuns.Get(t.Context(), started.ID, anthropic.BetaDeploymentRunGetParams{})
	if must(t, again, err).RawJSON() != started.RawJSON() {
		t.Errorf("%s is not %s", again.RawJSON(), started.RawJSON())
	}
}

func TestRunsComeNewestFirstOverPages(t *testing.T) {
	deployment := newDeployment(t, newEnvironment(t).ID, "true")
	var made []string
	for range 5 {
		made = append([]string{run(t, deployment.ID).ID}, made...)
	}
	params := anthropic.BetaDeploymentRunListParams{
		DeploymentID: anthropic.String(deployment.ID),
		Limit:        anthropic.Int(2),
	}
	page, err := client.Beta.DeploymentRuns.List(t.Context(), params)
	if first := must(t, page, err); len(first.Data) != 2 || first.NextPage == "" {
		t.Errorf("%s", page.RawJSON())
	}
	var listed []string
	pages := client.Beta.DeploymentRuns.ListAutoPaging(t.Context(), params)
	for pages.Next() {
		listed = append(listed, must(t, pages.Current(), nil).ID)
	}
	must(t, 0, pages.Err())
	if !slices.Equal(listed, made) {
		t.Errorf("%q, not %q", listed, made)
	}
}

func TestWhatIsListedFitsItsType(t *testing.T) {
	ctx, api := t.Context(), client.Beta
	run(t, newDeployment(t, newEnvironment(t).ID, "true").ID)

	agents, err := api.Agents.List(ctx, anthropic.BetaAgentListParams{})
	expectSome(t, must(t, agents, err).Data)
	environments, err := api.Environments.List(ctx, anthropic.BetaEnvironmentListParams{})
	expectSome(t, must(t, environments, err).Data)
	deployments, err := api.Deployments.List(ctx, anthropic.BetaDeploymentListParams{})
	expectSome(t, must(t, deployments, err).Data)
	sessions, err := api.Sessions.List(ctx, anthropic.BetaSessionListParams{})
	expectSome(t, must(t, sessions, err).Data)
	// This SDK does not say by itself that it wants the beta shape.
	models, err := api.Models.List(ctx, anthropic.BetaModelListParams{
		Betas: []anthropic.AnthropicBeta{"managed-agents-2026-04-01"},
	})
	expectSome(t, must(t, models, err).Data)
	general, err := client.Models.List(ctx, anthropic.ModelListParams{})
	expectSome(t, must(t, general, err).Data)
}

func TestARunWithoutItsEnvironmentIsRecordedAsFailed(t *testing.T) {
	environment := newEnvironment(t)
	deployment := newDeployment(t, environment.ID, "true")
	archived, err := client.Beta.Environments.Archive(
		t.Context(), environment.ID, anthropic.BetaEnvironmentArchiveParams{})
	must(t, archived, err)
	var response *http.Response
	failed, err := client.Beta.Deployments.Run(
		t.Context(), deployment.ID, anthropic.BetaDeploymentRunParams{}, option.WithResponseInto(&response))
	must(t, failed, err)
	if response.StatusCode != http.StatusOK || failed.JSON.SessionID.Raw() != "null" {
		t.Errorf("%d %s", response.StatusCode, failed.RawJSON())
	}
	switch failure := failed.Error.AsAny().(type) {
	case anthropic.BetaManagedAgentsEnvironmentArchivedRunError:
		if must(t, failure, nil).Message == "" {
			t.Error("the error has no message")
		}
	default:
		t.Errorf("%T: %s", failure, failed.RawJSON())
	}
	with, err := client.Beta.DeploymentRuns.List(t.Context(), anthropic.BetaDeploymentRunListParams{
		DeploymentID: anthropic.String(deployment.ID),
		HasError:     anthropic.Bool(true),
	})
	if data := must(t, with, err).Data; len(data) != 1 || data[0].ID != failed.ID {
		t.Errorf("%s", with.RawJSON())
	}
}

func TestWhatIsNotThereIs404(t *testing.T) {
	deployment := newDeployment(t, newEnvironment(t).ID, "true")
	absent := deployment.ID[:len(deployment.ID)-4] + "1111"
	_, err := client.Beta.Deployments.Get(t.Context(), absent, anthropic.BetaDeploymentGetParams{})
	expectFailure(t, err, http.StatusNotFound, anthropic.ErrorTypeNotFoundError)
	_, err = client.Beta.Deployments.Run(t.Context(), absent, anthropic.BetaDeploymentRunParams{})
	expectFailure(t, err, http.StatusNotFound, anthropic.ErrorTypeNotFoundError)
}

func TestAnotherWorkspaceSeesNothing(t *testing.T) {
	deployment := newDeployment(t, newEnvironment(t).ID, "true")
	stranger := connect("ROTA_OTHER_KEY")
	_, err := stranger.Beta.Deployments.Run(t.Context(), deployment.ID, anthropic.BetaDeploymentRunParams{})
	expectFailure(t, err, http.StatusNotFound, anthropic.ErrorTypeNotFoundError)
}
