//! Files that the server gives to a session and takes from it.

#![allow(clippy::unwrap_used)]

mod inside;

use std::io::Read;
use std::sync::Arc;

use inside::bash;
use rota_sandbox::{Area, Bounds, Embedded, Listing};

const BOUNDS: Bounds = Bounds { entries: 100, depth: 5, file_bytes: 1000 };

fn backend() -> (tempfile::TempDir, Arc<Embedded>) {
    let folder = tempfile::tempdir().unwrap();
    let backend = Embedded::new(inside::config(folder.path())).unwrap();
    (folder, backend)
}

fn paths(listing: &Listing) -> Vec<&str> {
    listing.files.iter().map(|file| file.path.as_str()).collect()
}

#[tokio::test]
async fn a_file_that_is_given_is_there_before_the_sandbox_and_while_it_runs_and_is_read_only_where_it_should_be() {
    let (_folder, backend) = backend();
    for (area, path) in [
        (Area::Uploads, "deep/er/a.txt"),
        (Area::Memory, "fixed/a.md"),
        (Area::WritableMemory, "notes/a.md"),
        (Area::Skills, "skill/SKILL.md"),
    ] {
        backend.put("s", area, path, b"before".to_vec()).await.unwrap();
    }
    backend.make_folder("s", Area::WritableMemory, "empty").await.unwrap();
    let sandbox = backend.open("s").await.unwrap();
    backend.put("s", Area::Uploads, "late", b"late".to_vec()).await.unwrap();
    backend.put("s", Area::Uploads, "deep/er/a.txt", b"new".to_vec()).await.unwrap();
    backend.put("s", Area::WritableMemory, "notes/b.md", b"late".to_vec()).await.unwrap();
    for (path, content) in [
        ("/mnt/session/uploads/deep/er/a.txt", "new"),
        ("/mnt/session/uploads/late", "late"),
        ("/mnt/memory/fixed/a.md", "before"),
        ("/mnt/memory/notes/a.md", "before"),
        ("/mnt/memory/notes/b.md", "late"),
        ("/workspace/skills/skill/SKILL.md", "before"),
    ] {
        assert_eq!(bash(&sandbox, &format!("cat {path}")).await.content.trim(), content, "{path}");
    }
    for (path, may) in [
        ("/mnt/session/uploads/late", false),
        ("/mnt/session/uploads/new", false),
        ("/mnt/memory/new", false),
        ("/mnt/memory/fixed/a.md", false),
        ("/mnt/memory/fixed/new", false),
        ("/mnt/memory/notes/a.md", true),
        ("/mnt/memory/notes/new", true),
        ("/mnt/memory/empty/new", true),
        ("/workspace/skills/skill/SKILL.md", true),
    ] {
        let said = bash(&sandbox, &format!("echo changed > {path} && echo done")).await.content;
        assert_eq!(said.trim() == "done", may, "{path}: {said}");
    }
    backend.remove_file("s", Area::Uploads, "late").await.unwrap();
    backend.remove_file("s", Area::Uploads, "late").await.unwrap();
    assert_eq!(bash(&sandbox, "ls /mnt/session/uploads").await.content.trim(), "deep");
    backend.remove_file("s", Area::Uploads, "deep/er/a.txt").await.unwrap();
    backend.put("s", Area::Uploads, "deep", b"now a file".to_vec()).await.unwrap();
    let listing = backend.list("s", Area::WritableMemory, BOUNDS).await.unwrap();
    assert_eq!(paths(&listing), ["empty/new", "notes/a.md", "notes/b.md", "notes/new"]);
    backend.shutdown().await;
}

#[tokio::test]
async fn what_the_agent_leaves_is_read_without_following_links_and_within_bounds() {
    let (_folder, backend) = backend();
    assert!(backend.list("s", Area::Outputs, BOUNDS).await.unwrap().files.is_empty(), "no session yet");
    let sandbox = backend.open("s").await.unwrap();
    let made = bash(
        &sandbox,
        "cd /mnt/session/outputs && mkdir -p a/b deep/2/3/4/5/6 && echo -n hello > a/b/c.txt && touch empty \
         && ln -s /etc/passwd link && ln -s /etc folder && mkfifo fifo && head -c 1001 /dev/zero > large \
         && touch $'bad\\xff' && touch deep/2/3/4/5/6/file && echo made",
    )
    .await;
    assert_eq!(made.content.trim(), "made");
    let listing = backend.list("s", Area::Outputs, BOUNDS).await.unwrap();
    assert_eq!(paths(&listing), ["a/b/c.txt", "empty"]);
    assert!(listing.is_cut, "what is too deep");
    for (name, reason) in [
        ("link", "neither a file nor a folder"),
        ("folder", "neither a file nor a folder"),
        ("fifo", "neither a file nor a folder"),
        ("large", "more than 1000 bytes"),
        ("bad", "not UTF-8"),
        ("deep/2/3/4/5", "5 folders deep"),
    ] {
        let found = listing.skipped.iter().any(|skipped| skipped.starts_with(name) && skipped.contains(reason));
        assert!(found, "{name}: {:?}", listing.skipped);
    }
    let read = async |path: &str| backend.open_file("s", Area::Outputs, path).await;
    let (mut file, state) = read("a/b/c.txt").await.unwrap().unwrap();
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!((content.as_str(), state.size), ("hello", 5));
    for path in ["link", "fifo", "a", "nothing", "no/thing"] {
        assert!(read(path).await.unwrap().is_none(), "{path}");
    }
    for path in ["folder/passwd", "../outputs/a", "/etc/passwd", ""] {
        assert!(!matches!(read(path).await, Ok(Some(_))), "{path}");
    }
    let few = Bounds { entries: 3, ..BOUNDS };
    let cut = backend.list("s", Area::Outputs, few).await.unwrap();
    assert!(cut.is_cut && cut.files.len() + cut.skipped.len() <= 3);
    backend.shutdown().await;
    assert_eq!(
        paths(&backend.list("s", Area::Outputs, BOUNDS).await.unwrap()),
        ["a/b/c.txt", "empty"],
        "without a sandbox"
    );
}

#[tokio::test]
async fn a_link_of_the_agents_in_the_place_of_a_folder_is_not_followed_when_files_are_given() {
    let (folder, backend) = backend();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let sandbox = backend.open("s").await.unwrap();
    let link = format!("ln -s {} /workspace/skills && echo linked", outside.display());
    assert_eq!(bash(&sandbox, &link).await.content.trim(), "linked");
    backend.put("s", Area::Skills, "skill/SKILL.md", b"x".to_vec()).await.unwrap_err();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    backend.shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_never_placed_is_gone_also_when_the_server_died_over_it() {
    let (folder, backend) = backend();
    let incoming = || std::fs::read_dir(folder.path().join("sessions/.incoming")).unwrap().count();
    let file = backend.new_file().await.unwrap();
    assert_eq!(incoming(), 1);
    drop(file);
    assert_eq!(incoming(), 0);
    std::mem::forget(backend.new_file().await.unwrap());
    backend.sweep().await.unwrap();
    assert_eq!(incoming(), 0);
}

#[tokio::test]
async fn a_tree_is_given_as_a_whole_and_never_in_the_place_of_something() {
    let (folder, backend) = backend();
    let outside = folder.path().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    let tree = backend.new_tree().await.unwrap();
    tree.write("scripts/run.sh", b"#!/bin/sh\necho ran\n", true).unwrap();
    tree.write("SKILL.md", b"text", false).unwrap();
    std::os::unix::fs::symlink(&outside, tree.path().join("link")).unwrap();
    assert_eq!(tree.read("link", 100).unwrap(), None, "no link is followed");
    assert_eq!(tree.read("SKILL.md/x", 100).unwrap(), None);
    assert_eq!(tree.read("SKILL.md", 2).unwrap().unwrap(), b"te");
    assert_eq!(tree.folders("scripts/..", 10).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(tree.folders(".", 10).unwrap(), ["scripts"]);
    assert_eq!(tree.size((1000, 1000)).unwrap(), (23, 4));
    assert!(backend.place_tree("s", Area::Skills, "report", tree).await.unwrap());
    let sandbox = backend.open("s").await.unwrap();
    let ran = bash(&sandbox, "cd skills/report && scripts/run.sh && stat -c '%u %a' SKILL.md link && cat link").await;
    assert!(ran.content.starts_with("ran\n0 644\n0 777\n"), "{}", ran.content);
    assert!(!ran.content.contains("secret"));
    let second = backend.new_tree().await.unwrap();
    let path = second.path().to_owned();
    assert!(!backend.place_tree("s", Area::Skills, "report", second).await.unwrap());
    backend.shutdown().await;
    while path.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tree_does_not_go_where_a_link_of_the_agent_leads() {
    let (folder, backend) = backend();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let sandbox = backend.open("s").await.unwrap();
    bash(&sandbox, &format!("ln -s {} /workspace/skills", outside.display())).await;
    let tree = backend.new_tree().await.unwrap();
    tree.write("a", b"x", false).unwrap();
    assert!(backend.place_tree("s", Area::Skills, "report", tree).await.is_err());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    backend.shutdown().await;
}
