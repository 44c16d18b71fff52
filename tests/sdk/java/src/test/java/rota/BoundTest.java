package rota;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.anthropic.client.AnthropicClient;
import com.anthropic.core.MultipartField;
import com.anthropic.core.http.HttpResponse;
import com.anthropic.errors.AnthropicServiceException;
import com.anthropic.errors.NotFoundException;
import com.anthropic.models.beta.dreams.BetaDream;
import com.anthropic.models.beta.dreams.DreamCreateParams;
import com.anthropic.models.beta.environments.BetaEnvironment;
import com.anthropic.models.beta.environments.BetaSelfHostedConfigParams;
import com.anthropic.models.beta.environments.EnvironmentCreateParams;
import com.anthropic.models.beta.environments.work.BetaSelfHostedWork;
import com.anthropic.models.beta.environments.work.WorkRetrieveParams;
import com.anthropic.models.beta.files.BetaFileMetadata;
import com.anthropic.models.beta.files.FileUploadParams;
import com.anthropic.models.beta.memorystores.BetaManagedAgentsMemoryStore;
import com.anthropic.models.beta.memorystores.MemoryStoreCreateParams;
import com.anthropic.models.beta.memorystores.memories.BetaManagedAgentsMemory;
import com.anthropic.models.beta.memorystores.memories.MemoryCreateParams;
import com.anthropic.models.beta.memorystores.memories.MemoryRetrieveParams;
import com.anthropic.models.beta.sessions.BetaManagedAgentsSession;
import com.anthropic.models.beta.skills.BetaSkill;
import com.anthropic.models.beta.skills.SkillCreateParams;
import com.anthropic.models.beta.skills.versions.BetaSkillVersion;
import com.anthropic.models.beta.skills.versions.VersionDownloadParams;
import com.anthropic.models.beta.skills.versions.VersionRetrieveParams;
import com.anthropic.models.beta.tunnels.BetaTunnel;
import com.anthropic.models.beta.tunnels.TunnelCreateParams;
import com.anthropic.models.beta.userprofiles.BetaUserProfile;
import com.anthropic.models.beta.userprofiles.UserProfileCreateParams;
import com.anthropic.models.beta.vaults.BetaManagedAgentsVault;
import com.anthropic.models.beta.vaults.VaultCreateParams;
import com.anthropic.models.beta.vaults.credentials.BetaManagedAgentsCredential;
import com.anthropic.models.beta.vaults.credentials.BetaManagedAgentsStaticBearerCreateParams;
import com.anthropic.models.beta.vaults.credentials.CredentialCreateParams;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import org.junit.jupiter.api.Test;

/** One way through each resource that a session binds; each response passes the SDK's own {@code validate()}. */
class BoundTest {
    private static final AnthropicClient CLIENT = SdkTest.connect("ROTA_KEY");

    private static MultipartField<InputStream> file(String name, String content) {
        return MultipartField.<InputStream>builder()
                .value(new ByteArrayInputStream(content.getBytes(StandardCharsets.UTF_8)))
                .filename(name)
                .contentType("text/plain")
                .build();
    }

    private static BetaManagedAgentsMemoryStore newStore() {
        return CLIENT.beta()
                .memoryStores()
                .create(MemoryStoreCreateParams.builder().name(SdkTest.unique("store")).build());
    }

    @Test
    void aFileIsUploadedDescribedAndDeleted() {
        BetaFileMetadata file = CLIENT.beta()
                .files()
                .upload(FileUploadParams.builder().file(file("notes.txt", "Grüße\n")).build())
                .validate();
        assertEquals("notes.txt", file.filename());
        assertEquals(8, file.sizeBytes());
        assertEquals(file, CLIENT.beta().files().retrieveMetadata(file.id()).validate());
        CLIENT.beta().files().delete(file.id()).validate();
        assertThrows(NotFoundException.class, () -> CLIENT.beta().files().retrieveMetadata(file.id()));
    }

    @Test
    void aSkillIsUploadedAndDownloaded() throws Exception {
        String name = SdkTest.unique("skill").replace(' ', '-');
        String manifest = "---\nname: " + name + "\ndescription: What it is for.\n---\nHow.\n";
        BetaSkill skill = CLIENT.beta()
                .skills()
                .create(SkillCreateParams.builder().addFile(file(name + "/SKILL.md", manifest)).build())
                .validate();
        BetaSkillVersion version = CLIENT.beta()
                .skills()
                .versions()
                .retrieve("latest", VersionRetrieveParams.builder().skillId(skill.id()).build())
                .validate();
        assertEquals(skill.latestVersionId(), version.id());
        try (HttpResponse archive = CLIENT.beta()
                .skills()
                .versions()
                .download(version.id(), VersionDownloadParams.builder().skillId(skill.id()).build())) {
            assertEquals('P', archive.body().read());
            assertEquals('K', archive.body().read());
        }
        CLIENT.beta().skills().delete(skill.id()).validate();
    }

    @Test
    void aMemoryHasOnePath() {
        BetaManagedAgentsMemoryStore store = newStore();
        MemoryCreateParams params =
                MemoryCreateParams.builder().memoryStoreId(store.id()).path("/notes/a.md").content("one").build();
        BetaManagedAgentsMemory made = CLIENT.beta().memoryStores().memories().create(params).validate();
        BetaManagedAgentsMemory read = CLIENT.beta()
                .memoryStores()
                .memories()
                .retrieve(made.id(), MemoryRetrieveParams.builder().memoryStoreId(store.id()).build())
                .validate();
        assertEquals("one", read.content().orElse(null));
        AnthropicServiceException taken = assertThrows(
                AnthropicServiceException.class,
                () -> CLIENT.beta().memoryStores().memories().create(params));
        assertEquals(409, taken.statusCode());
        CLIENT.beta().memoryStores().archive(store.id());
        CLIENT.beta().memoryStores().delete(store.id()).validate();
    }

    @Test
    void aVaultShowsNoSecret() {
        BetaManagedAgentsVault vault = CLIENT.beta()
                .vaults()
                .create(VaultCreateParams.builder().displayName("vault").build())
                .validate();
        BetaManagedAgentsStaticBearerCreateParams bearer = BetaManagedAgentsStaticBearerCreateParams.builder()
                .token("hush")
                .mcpServerUrl("https://nowhere.invalid/mcp")
                .build();
        BetaManagedAgentsCredential credential = CLIENT.beta()
                .vaults()
                .credentials()
                .create(vault.id(), CredentialCreateParams.builder().auth(bearer).build())
                .validate();
        assertFalse(credential.toString().contains("hush"));
        CLIENT.beta().vaults().delete(vault.id()).validate();
    }

    @Test
    void workIsShownToAnOperator() {
        BetaEnvironment environment = CLIENT.beta()
                .environments()
                .create(EnvironmentCreateParams.builder()
                        .name(SdkTest.unique("workers"))
                        .config(BetaSelfHostedConfigParams.builder().build())
                        .build())
                .validate();
        BetaManagedAgentsSession session = SdkTest.newSession(environment, "true");
        assertEquals(1, CLIENT.beta().environments().work().stats(environment.id()).validate().depth());
        BetaSelfHostedWork work = CLIENT.beta()
                .environments()
                .work()
                .retrieve(session.id(), WorkRetrieveParams.builder()
                        .environmentId(environment.id())
                        .build())
                .validate();
        assertEquals("queued", work.state().toString());
    }

    @Test
    void profilesTunnelsAndDreams() {
        BetaUserProfile profile = CLIENT.beta()
                .userProfiles()
                .create(UserProfileCreateParams.builder().name(SdkTest.unique("customer")).build())
                .validate();
        CLIENT.beta().userProfiles().delete(profile.id()).validate();
        BetaTunnel tunnel = CLIENT.beta()
                .tunnels()
                .create(TunnelCreateParams.builder().displayName("tunnel").build())
                .validate();
        assertTrue(tunnel.id().startsWith("tnl_"));
        BetaEnvironment environment = SdkTest.newEnvironment();
        BetaDream dream = CLIENT.beta()
                .dreams()
                .create(DreamCreateParams.builder()
                        .addMemoryStoreInput(newStore().id())
                        .addSessionsInput(Collections.singletonList(
                                SdkTest.newSession(environment, "true").id()))
                        .model("claude-opus-5-5")
                        .build())
                .validate();
        assertEquals(dream.id(), CLIENT.beta().dreams().retrieve(dream.id()).validate().id());
    }
}
