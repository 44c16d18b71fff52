package sdktests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

func newStore(t *testing.T) *anthropic.BetaManagedAgentsMemoryStore {
	store, err := client.Beta.MemoryStores.New(t.Context(), anthropic.BetaMemoryStoreNewParams{
		Name: unique(t, "store"),
	})
	return mustBut(t, store, err, ".archived_at is missing")
}

func newSession(t *testing.T, params anthropic.BetaSessionNewParams) *anthropic.BetaManagedAgentsSession {
	params.Agent = anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(newAgent(t).ID)}
	if params.EnvironmentID == "" {
		params.EnvironmentID = newEnvironment(t).ID
	}
	session, err := client.Beta.Sessions.New(t.Context(), params)
	return must(t, session, err)
}

func upload(t *testing.T, name, content string) *anthropic.BetaFileMetadata {
	file, err := client.Beta.Files.Upload(t.Context(), anthropic.BetaFileUploadParams{
		File: anthropic.File(strings.NewReader(content), name, "text/plain"),
	})
	return must(t, file, err)
}

func read(t *testing.T, response *http.Response, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return must(t, content, err)
}

func TestAFileIsMountedAndAnOutputDownloaded(t *testing.T) {
	content := strings.Repeat("Grüße\n", 1000)
	file := upload(t, "in.txt", content)
	if file.SizeBytes != int64(len(content)) || file.Filename != "in.txt" {
		t.Errorf("%s", file.RawJSON())
	}
	session := newSession(t, anthropic.BetaSessionNewParams{
		Resources: []anthropic.BetaSessionNewParamsResourceUnion{{
			OfFile: &anthropic.BetaManagedAgentsFileResourceParams{FileID: file.ID, MountPath: anthropic.String("/in.txt")},
		}},
	})
	added, err := client.Beta.Sessions.Resources.Add(t.Context(), session.ID, anthropic.BetaSessionResourceAddParams{
		BetaManagedAgentsFileResourceParams: anthropic.BetaManagedAgentsFileResourceParams{FileID: file.ID},
	})
	must(t, added, err)
	removed, err := client.Beta.Sessions.Resources.Delete(t.Context(), added.ID, anthropic.BetaSessionResourceDeleteParams{
		SessionID: session.ID,
	})
	must(t, removed, err)
	_, err = client.Beta.Sessions.Events.Send(t.Context(), session.ID, anthropic.BetaSessionEventSendParams{
		Events: []anthropic.BetaManagedAgentsEventParamsUnion{{
			OfUserMessage: message("cat /mnt/session/uploads/in.txt > /mnt/session/outputs/out.txt"),
		}},
	})
	must(t, 0, err)
	follow(t, session.ID)
	// Outputs become files a moment after the rest.
	var output anthropic.BetaFileMetadata
	for deadline := time.Now().Add(30 * time.Second); output.ID == ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the output does not become a file")
		}
		page, err := client.Beta.Files.List(t.Context(), anthropic.BetaFileListParams{ScopeID: anthropic.String(session.ID)})
		for _, found := range must(t, page, err).Data {
			if found.Downloadable {
				output = found
			}
		}
	}
	response, err := client.Beta.Files.Download(t.Context(), output.ID, anthropic.BetaFileDownloadParams{})
	if got := read(t, response, err); string(got) != content {
		t.Errorf("%d bytes, not %d", len(got), len(content))
	}
	deleted, err := client.Beta.Files.Delete(t.Context(), file.ID, anthropic.BetaFileDeleteParams{})
	must(t, deleted, err)
}

func TestASkillIsUploadedAndDownloaded(t *testing.T) {
	name := fmt.Sprintf("skill-%d", time.Now().UnixNano())
	manifest := fmt.Sprintf("---\nname: %s\ndescription: What it is for.\n---\nHow.\n", name)
	skill, err := client.Beta.Skills.New(t.Context(), anthropic.BetaSkillNewParams{
		Files: []io.Reader{anthropic.File(strings.NewReader(manifest), name+"/SKILL.md", "text/markdown")},
	})
	must(t, skill, err)
	version, err := client.Beta.Skills.Versions.Get(t.Context(), "latest", anthropic.BetaSkillVersionGetParams{SkillID: skill.ID})
	if must(t, version, err).ID != skill.LatestVersionID || version.Name != name {
		t.Errorf("%s", version.RawJSON())
	}
	response, err := client.Beta.Skills.Versions.Download(
		t.Context(), version.ID, anthropic.BetaSkillVersionDownloadParams{SkillID: skill.ID})
	if archive := read(t, response, err); !bytes.HasPrefix(archive, []byte("PK")) {
		t.Errorf("%d bytes that are no archive", len(archive))
	}
	deleted, err := client.Beta.Skills.Delete(t.Context(), skill.ID, anthropic.BetaSkillDeleteParams{})
	must(t, deleted, err)
}

func TestMemoriesHaveVersions(t *testing.T) {
	store := newStore(t)
	memory, err := client.Beta.MemoryStores.Memories.New(t.Context(), store.ID, anthropic.BetaMemoryStoreMemoryNewParams{
		Path: "/notes/a.md", Content: anthropic.String("one"),
	})
	must(t, memory, err)
	full, err := client.Beta.MemoryStores.Memories.Get(t.Context(), memory.ID, anthropic.BetaMemoryStoreMemoryGetParams{
		MemoryStoreID: store.ID,
	})
	if must(t, full, err).Content != "one" {
		t.Errorf("%s", full.RawJSON())
	}
	_, err = client.Beta.MemoryStores.Memories.New(t.Context(), store.ID, anthropic.BetaMemoryStoreMemoryNewParams{
		Path: "/notes/a.md", Content: anthropic.String("two"),
	})
	if err == nil || !strings.Contains(err.Error(), "memory_path_conflict_error") {
		t.Errorf("%v", err)
	}
	versions := client.Beta.MemoryStores.MemoryVersions.ListAutoPaging(
		t.Context(), store.ID, anthropic.BetaMemoryStoreMemoryVersionListParams{})
	var listed []string
	for versions.Next() {
		listed = append(listed, must(t, versions.Current(), nil).ID)
	}
	must(t, 0, versions.Err())
	if !slices.Equal(listed, []string{memory.MemoryVersionID}) {
		t.Errorf("%q", listed)
	}
	archived, err := client.Beta.MemoryStores.Archive(t.Context(), store.ID, anthropic.BetaMemoryStoreArchiveParams{})
	must(t, archived, err)
	deleted, err := client.Beta.MemoryStores.Delete(t.Context(), store.ID, anthropic.BetaMemoryStoreDeleteParams{})
	must(t, deleted, err)
}

func TestAVaultShowsNoSecret(t *testing.T) {
	vault, err := client.Beta.Vaults.New(t.Context(), anthropic.BetaVaultNewParams{DisplayName: "vault"})
	must(t, vault, err)
	bearer := anthropic.BetaManagedAgentsStaticBearerCreateParams{Token: "hush", MCPServerURL: "https://nowhere.invalid/mcp"}
	credential, err := client.Beta.Vaults.Credentials.New(t.Context(), vault.ID, anthropic.BetaVaultCredentialNewParams{
		Auth: anthropic.BetaVaultCredentialNewParamsAuthUnion{OfStaticBearer: &bearer},
	})
	if strings.Contains(must(t, credential, err).RawJSON(), "hush") {
		t.Errorf("%s", credential.RawJSON())
	}
	archived, err := client.Beta.Vaults.Credentials.Archive(
		t.Context(), credential.ID, anthropic.BetaVaultCredentialArchiveParams{VaultID: vault.ID})
	must(t, archived, err)
	deleted, err := client.Beta.Vaults.Delete(t.Context(), vault.ID, anthropic.BetaVaultDeleteParams{})
	must(t, deleted, err)
}

func TestAWorkerTakesWorkAndStopsIt(t *testing.T) {
	environment, err := client.Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
		Name:   unique(t, "workers"),
		Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
	})
	must(t, environment, err)
	worker := anthropic.NewClient(
		option.WithBaseURL(os.Getenv("ROTA_BASE_URL")),
		option.WithAuthToken(environmentKey(t, environment.ID)),
		option.WithMaxRetries(0),
	)
	work := worker.Beta.Environments.Work
	session := newSession(t, anthropic.BetaSessionNewParams{
		EnvironmentID: environment.ID,
		InitialEvents: []anthropic.BetaSessionNewParamsInitialEventUnion{{OfUserMessage: message("true")}},
	})
	given, err := work.Poll(t.Context(), environment.ID, anthropic.BetaEnvironmentWorkPollParams{BlockMs: anthropic.Int(900)})
	if mustWork(t, given, err).ID != session.ID || given.Secret == "" {
		t.Errorf("%s", given.ID)
	}
	acked, err := work.Ack(t.Context(), given.ID, anthropic.BetaEnvironmentWorkAckParams{EnvironmentID: environment.ID})
	mustWork(t, acked, err)
	beat, err := work.Heartbeat(t.Context(), given.ID, anthropic.BetaEnvironmentWorkHeartbeatParams{
		EnvironmentID: environment.ID, ExpectedLastHeartbeat: anthropic.String("NO_HEARTBEAT"),
	})
	if !must(t, beat, err).LeaseExtended {
		t.Errorf("%s", beat.RawJSON())
	}
	stopped, err := work.Stop(t.Context(), given.ID, anthropic.BetaEnvironmentWorkStopParams{
		EnvironmentID:                 environment.ID,
		BetaSelfHostedWorkStopRequest: anthropic.BetaSelfHostedWorkStopRequestParam{Force: anthropic.Bool(true)},
	})
	if mustWork(t, stopped, err).State != "stopped" {
		t.Errorf("%s", stopped.RawJSON())
	}
}

// mustBut is must, but for a misfit that the hosted service was recorded to send too.
func mustBut[Response any](t *testing.T, response Response, err error, recorded string) Response {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, misfit := range misfits(response) {
		if misfit != recorded {
			t.Fatalf("%T: %s", response, misfit)
		}
	}
	return response
}

func mustWork(t *testing.T, work *anthropic.BetaSelfHostedWork, err error) *anthropic.BetaSelfHostedWork {
	t.Helper()
	return mustBut(t, work, err, ".actor is not documented")
}

func environmentKey(t *testing.T, environmentID string) string {
	url := os.Getenv("ROTA_BASE_URL") + "/rota/v1/environments/" + environmentID + "/keys"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{"name": "worker"}`))
	must(t, 0, err)
	request.Header.Set("x-api-key", os.Getenv("ROTA_KEY"))
	request.Header.Set("content-type", "application/json")
	response, err := http.DefaultClient.Do(request)
	var key struct {
		Secret string `json:"secret"`
	}
	must(t, 0, json.Unmarshal(read(t, response, err), &key))
	return key.Secret
}

func TestProfilesTunnelsAndDreams(t *testing.T) {
	profile, err := client.Beta.UserProfiles.New(t.Context(), anthropic.BetaUserProfileNewParams{
		Name: anthropic.String(unique(t, "customer")),
	})
	must(t, profile, err)
	gone, err := client.Beta.UserProfiles.Delete(t.Context(), profile.ID, anthropic.BetaUserProfileDeleteParams{})
	must(t, gone, err)
	tunnel, err := client.Beta.Tunnels.New(t.Context(), anthropic.BetaTunnelNewParams{DisplayName: anthropic.String("tunnel")})
	must(t, tunnel, err)
	token, err := client.Beta.Tunnels.RevealToken(t.Context(), tunnel.ID, anthropic.BetaTunnelRevealTokenParams{})
	must(t, token, err)
	session := newSession(t, anthropic.BetaSessionNewParams{})
	dream, err := client.Beta.Dreams.New(t.Context(), anthropic.BetaDreamNewParams{
		Inputs: []anthropic.BetaDreamInputUnionParam{
			{OfMemoryStore: &anthropic.BetaDreamMemoryStoreInputParam{MemoryStoreID: newStore(t).ID}},
			{OfSessions: &anthropic.BetaDreamSessionsInputParam{SessionIDs: []string{session.ID}}},
		},
		Model: anthropic.BetaDreamNewParamsModelUnion{OfString: anthropic.String("playbook")},
	})
	must(t, dream, err)
	shown, err := client.Beta.Dreams.Get(t.Context(), dream.ID, anthropic.BetaDreamGetParams{})
	must(t, shown, err)
}
