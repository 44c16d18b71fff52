//! git-lfs through the gate: large objects go where their repository goes, with the same token.

use serde_json::json;

use super::{
    clients::{said, said_at},
    limited, log, parts,
    secrets::{keys, with_git},
};
use crate::{
    git_server::{Manner, TOKEN},
    given::{id, script},
    repositories::repository,
};

/// Commits a large object and pushes it. Prints its digest.
const PUSH: &str = "git config --global user.name a && git config --global user.email a@b && git lfs install > /dev/null && \
    git lfs track '*.bin' > /dev/null && head -c 5000000 /dev/urandom > big.bin && git add -A && git commit -qm big && \
    git push -q origin HEAD:main && sha256sum < big.bin";

/// Whether the two digests in it are the same. On a slow machine it tells of its progress besides.
fn same_twice(said: &str) -> bool {
    let digests: Vec<&str> = said.lines().filter(|line| line.ends_with("  -")).collect();
    digests.len() == 2 && digests[0] == digests[1]
}

#[tokio::test]
#[cfg_attr(not(all(git, git_lfs)), ignore = "needs git and git-lfs: apt install git git-lfs")]
async fn large_objects_are_pushed_and_pulled_with_a_token_of_a_vault() {
    let (host, _authority, rota) = with_git(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "in it").unwrap());
    let api = &rota.api;
    let networking = json!({"type": "limited", "allowed_hosts": ["git.example"]});
    let (keys, _) = keys(api, &json!({"secret_value": TOKEN, "networking": networking})).await;
    let url = "https://x-access-token:$API_KEY@git.example/o/app.git";
    let command = format!(
        "git clone -q {url} && cd app && {PUSH} && cd .. && git clone -q {url} other && sha256sum < other/big.bin && \
         git -C other lfs ls-files | wc -l"
    );
    let changes = json!({"vault_ids": [id(&keys)], "initial_events": [script(&command)]});
    let of = parts(api, limited(&["git.example"])).await.session(api, changes).await;
    let said = said(api, &of).await;
    assert!(same_twice(&said) && said.trim().ends_with("\n1"), "{said}");
    let asked = host.asked();
    for what in ["PUT /o/app.git/lfs/objects/", "GET /o/app.git/lfs/objects/"] {
        assert_eq!(asked.iter().filter(|line| line.starts_with(what)).count(), 1, "{asked:?}");
    }
    host.answers(Manner::ReadOnly);
    let refused =
        "cd /workspace/other && echo more >> big.bin && git commit -qam more && git push origin HEAD:main 2>&1";
    api.events(id(&of), json!([script(refused)])).await;
    let said = said_at(api, &of, 1).await;
    assert!(said.contains("You may read here, and not push: ask the owner."), "{said}");
}

#[tokio::test]
#[cfg_attr(not(all(git, git_lfs)), ignore = "needs git and git-lfs: apt install git git-lfs")]
async fn large_objects_of_a_session_s_repository_go_with_its_token() {
    let (host, _authority, rota) = with_git(Manner::Private).await;
    host.repository("o/app", |folder| std::fs::write(folder.join("file"), "in it").unwrap());
    let api = &rota.api;
    let command = format!(
        "cd app && {PUSH} && rm -rf .git/lfs big.bin && git lfs pull && git checkout -q -- big.bin && sha256sum < big.bin"
    );
    let resource = repository(&host.url("o/app"), &json!({}));
    let body = json!({"resources": [resource], "initial_events": [script(&command)]});
    let of = parts(api, limited(&["git.example"])).await.session(api, body).await;
    let said = said(api, &of).await;
    assert!(same_twice(&said), "{said}");
    let rows = log(api, &of, 2).await;
    assert!(rows.iter().any(|row| row["credentials"][0]["credential_id"] == of["resources"][0]["id"]), "{rows:?}");
}
