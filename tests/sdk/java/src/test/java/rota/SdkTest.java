package rota;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.anthropic.client.AnthropicClient;
import com.anthropic.client.okhttp.AnthropicOkHttpClient;
import com.anthropic.core.ObjectMappers;
import com.anthropic.core.http.HttpResponseFor;
import com.anthropic.core.http.StreamResponse;
import com.anthropic.errors.AnthropicInvalidDataException;
import com.anthropic.errors.NotFoundException;
import com.anthropic.models.ErrorType;
import com.anthropic.models.beta.agents.AgentCreateParams;
import com.anthropic.models.beta.agents.BetaManagedAgentsAgent;
import com.anthropic.models.beta.agents.BetaManagedAgentsAgentToolset20260401Params;
import com.anthropic.models.beta.agents.BetaManagedAgentsModel;
import com.anthropic.models.beta.deploymentruns.BetaManagedAgentsDeploymentRun;
import com.anthropic.models.beta.deploymentruns.DeploymentRunListPage;
import com.anthropic.models.beta.deploymentruns.DeploymentRunListParams;
import com.anthropic.models.beta.deployments.BetaManagedAgentsDeployment;
import com.anthropic.models.beta.deployments.DeploymentCreateParams;
import com.anthropic.models.beta.environments.BetaEnvironment;
import com.anthropic.models.beta.environments.EnvironmentCreateParams;
import com.anthropic.models.beta.sessions.BetaManagedAgentsSession;
import com.anthropic.models.beta.sessions.SessionCreateParams;
import com.anthropic.models.beta.sessions.events.BetaManagedAgentsSessionEvent;
import com.anthropic.models.beta.sessions.events.BetaManagedAgentsStreamSessionEvents;
import com.anthropic.models.beta.sessions.events.BetaManagedAgentsUserMessageEventParams;
import com.anthropic.models.beta.sessions.events.EventListPage;
import com.anthropic.models.beta.sessions.events.EventSendParams;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The main job with the official Java SDK; each response passes the SDK's own {@code validate()}. */
class SdkTest {
    private static final JsonMapper JSON = ObjectMappers.jsonMapper();
    private static final AnthropicClient CLIENT = connect("ROTA_KEY");

    /** What a session tells of a message that is answered with one call of a tool. */
    private static final List<String> TURN = Arrays.asList(
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
            "session.status_idle");

    static AnthropicClient connect(String key) {
        return AnthropicOkHttpClient.builder()
                .baseUrl(System.getenv("ROTA_BASE_URL"))
                .apiKey(System.getenv(key))
                .maxRetries(0)
                .timeout(Duration.ofSeconds(30))
                .build();
    }

    static String unique(String kind) {
        return kind + " " + UUID.randomUUID();
    }

    private static BetaManagedAgentsUserMessageEventParams message(String script) {
        return BetaManagedAgentsUserMessageEventParams.builder()
                .addTextContent("```bash\n" + script + "\n```\n")
                .build();
    }

    private static BetaManagedAgentsAgent newAgent() {
        return newAgent(BetaManagedAgentsModel.CLAUDE_OPUS_5_5);
    }

    private static BetaManagedAgentsAgent newAgent(BetaManagedAgentsModel model) {
        return CLIENT.beta()
                .agents()
                .create(AgentCreateParams.builder()
                        .name(unique("agent"))
                        .model(model)
                        .addTool(BetaManagedAgentsAgentToolset20260401Params.builder().build())
                        .build())
                .validate();
    }

    static BetaEnvironment newEnvironment() {
        return CLIENT.beta()
                .environments()
                .create(EnvironmentCreateParams.builder().name(unique("environment")).build())
                .validate();
    }

    static BetaManagedAgentsSession newSession(BetaEnvironment environment, String script) {
        return CLIENT.beta()
                .sessions()
                .create(SessionCreateParams.builder()
                        .agent(newAgent().id())
                        .environmentId(environment.id())
                        .addInitialEvent(message(script))
                        .build())
                .validate();
    }

    private static BetaManagedAgentsDeployment newDeployment(BetaEnvironment environment, String script) {
        return CLIENT.beta()
                .deployments()
                .create(DeploymentCreateParams.builder()
                        .name(unique("deployment"))
                        .agent(newAgent().id())
                        .environmentId(environment.id())
                        .addInitialEvent(message(script))
                        .build())
                .validate();
    }

    private static BetaManagedAgentsDeploymentRun run(BetaManagedAgentsDeployment deployment) {
        return CLIENT.beta().deployments().run(deployment.id()).validate();
    }

    /**
     * The events of a session that was started elsewhere, up to its rest. The stream holds what comes after it was
     * opened, the history what came before; an event that is in both has one id.
     */
    private static Collection<JsonNode> follow(String session) {
        Map<String, JsonNode> events = new LinkedHashMap<>();
        try (StreamResponse<BetaManagedAgentsStreamSessionEvents> stream =
                CLIENT.beta().sessions().events().streamStreaming(session)) {
            for (BetaManagedAgentsSessionEvent event : history(session)) {
                JsonNode listed = JSON.valueToTree(event);
                // What waits comes at its place when it is taken up.
                if (listed.hasNonNull("processed_at") && note(events, listed)) {
                    return events.values();
                }
            }
            for (BetaManagedAgentsStreamSessionEvents event : stream) {
                if (note(events, JSON.valueToTree(event.validate()))) {
                    return events.values();
                }
            }
        }
        return fail("the stream ended before the session came to rest");
    }

    /**
     * The calls of the SDK's own example programs in their order: send, then open the stream, and read until the session
     * rests. The first model is `playbook` under another name, the second one is slow.
     */
    @Test
    @Timeout(120)
    void theFirstProgramReadsItsAnswerAndEnds() {
        for (BetaManagedAgentsModel model : Arrays.asList(
                BetaManagedAgentsModel.CLAUDE_OPUS_5_5, BetaManagedAgentsModel.CLAUDE_HAIKU_4_5)) {
            String agent = newAgent(model).id();
            for (int time = 0; time < 10; time++) {
                List<String> types = program(agent);
                assertTrue(types.contains("agent.message"), "no answer in " + types);
            }
        }
    }

    private static List<String> program(String agent) {
        String session = CLIENT.beta()
                .sessions()
                .create(SessionCreateParams.builder()
                        .agent(agent)
                        .environmentId(newEnvironment().id())
                        .build())
                .validate()
                .id();
        CLIENT.beta()
                .sessions()
                .events()
                .send(session, EventSendParams.builder().addEvent(message("echo hello")).build())
                .validate();
        List<String> types = new ArrayList<>();
        try (StreamResponse<BetaManagedAgentsStreamSessionEvents> stream =
                CLIENT.beta().sessions().events().streamStreaming(session)) {
            for (BetaManagedAgentsStreamSessionEvents event : stream) {
                String type = JSON.valueToTree(event.validate()).get("type").asText();
                types.add(type);
                if (type.equals("session.status_idle")) {
                    return types;
                }
            }
        }
        return fail("the stream ended before the session came to rest");
    }

    private static boolean note(Map<String, JsonNode> events, JsonNode event) {
        events.put(event.get("id").asText(), event);
        return event.get("type").asText().equals("session.status_idle");
    }

    private static List<BetaManagedAgentsSessionEvent> history(String session) {
        List<BetaManagedAgentsSessionEvent> events = new ArrayList<>();
        EventListPage page = CLIENT.beta().sessions().events().list(session);
        page.response().validate();
        events.addAll(page.data());
        while (page.hasNextPage()) {
            page = page.nextPage();
            page.response().validate();
            events.addAll(page.data());
        }
        return events;
    }

    private static List<String> ids(List<BetaManagedAgentsDeploymentRun> runs) {
        return runs.stream().map(BetaManagedAgentsDeploymentRun::id).collect(Collectors.toList());
    }

    @Test
    void aDocumentedRunIsValid() throws IOException {
        Path example = Paths.get("..", "fixtures", "deployment_run.json");
        BetaManagedAgentsDeploymentRun run =
                JSON.readValue(Files.readAllBytes(example), BetaManagedAgentsDeploymentRun.class).validate();
        assertTrue(run.error().get().isEnvironmentArchived());
        assertTrue(run.triggerContext().isSchedule());
    }

    @Test
    void aRunWithoutItsFieldsIsNotValid() throws IOException {
        BetaManagedAgentsDeploymentRun run = JSON.readValue("{\"id\": \"id\"}", BetaManagedAgentsDeploymentRun.class);
        assertThrows(AnthropicInvalidDataException.class, run::validate);
    }

    @Test
    void aRunStartsASessionThatWorksAndRests() {
        BetaManagedAgentsDeployment deployment = newDeployment(newEnvironment(), "echo run number $((40 + 2))");
        BetaManagedAgentsDeploymentRun run = run(deployment);
        assertFalse(run.error().isPresent());
        assertTrue(run.triggerContext().isManual());

        Collection<JsonNode> events = follow(run.sessionId().get());
        List<String> types = events.stream().map(event -> event.get("type").asText()).collect(Collectors.toList());
        assertEquals(TURN, types);
        String output = events.stream()
                .filter(event -> event.get("type").asText().equals("agent.tool_result"))
                .map(JsonNode::toString)
                .collect(Collectors.joining());
        assertTrue(output.contains("run number 42"), output);

        BetaManagedAgentsSession session =
                CLIENT.beta().sessions().retrieve(run.sessionId().get()).validate();
        assertEquals(BetaManagedAgentsSession.Status.IDLE, session.status());
        assertEquals(deployment.id(), session.deploymentId().get());
        assertEquals(deployment.name(), session.title().get());
        assertEquals(run, CLIENT.beta().deploymentRuns().retrieve(run.id()).validate());
    }

    @Test
    void runsComeNewestFirstOverPages() {
        BetaManagedAgentsDeployment deployment = newDeployment(newEnvironment(), "true");
        LinkedList<String> made = new LinkedList<>();
        for (int count = 0; count < 5; count += 1) {
            made.addFirst(run(deployment).id());
        }
        DeploymentRunListPage page = CLIENT.beta()
                .deploymentRuns()
                .list(DeploymentRunListParams.builder().deploymentId(deployment.id()).limit(2).build());
        assertEquals(made, ids(page.autoPager().stream().collect(Collectors.toList())));
        assertEquals(made.subList(0, 2), ids(page.response().validate().data()));
        page = page.nextPage();
        assertEquals(made.subList(2, 4), ids(page.response().validate().data()));
        page = page.nextPage();
        assertEquals(made.subList(4, 5), ids(page.response().validate().data()));
        assertFalse(page.hasNextPage());
    }

    @Test
    void aRunWithoutItsEnvironmentIsRecordedAsFailed() {
        BetaEnvironment environment = newEnvironment();
        BetaManagedAgentsDeployment deployment = newDeployment(environment, "true");
        CLIENT.beta().environments().archive(environment.id()).validate();

        HttpResponseFor<BetaManagedAgentsDeploymentRun> response =
                CLIENT.beta().deployments().withRawResponse().run(deployment.id());
        assertEquals(200, response.statusCode());
        BetaManagedAgentsDeploymentRun run = response.parse().validate();
        assertFalse(run.sessionId().isPresent());
        assertFalse(run.error().get().asEnvironmentArchived().message().isEmpty());

        DeploymentRunListPage failed = CLIENT.beta()
                .deploymentRuns()
                .list(DeploymentRunListParams.builder()
                        .deploymentId(deployment.id())
                        .hasError(true)
                        .build());
        assertEquals(Collections.singletonList(run.id()), ids(failed.response().validate().data()));
    }

    @Test
    void whatIsNotThereIs404() {
        String id = newDeployment(newEnvironment(), "true").id();
        String absent = id.substring(0, id.length() - 4) + "1111";
        NotFoundException failure =
                assertThrows(NotFoundException.class, () -> CLIENT.beta().deployments().run(absent));
        assertEquals(ErrorType.NOT_FOUND_ERROR, failure.type().get());
        assertTrue(failure.requestId().get().startsWith("req_"));
        assertThrows(NotFoundException.class, () -> CLIENT.beta().deployments().retrieve(absent));
    }

    @Test
    void anotherWorkspaceSeesNothing() {
        String id = newDeployment(newEnvironment(), "true").id();
        AnthropicClient stranger = connect("ROTA_OTHER_KEY");
        assertThrows(NotFoundException.class, () -> stranger.beta().deployments().run(id));
    }
}
