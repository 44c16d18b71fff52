//! Root file systems from images: what is unpacked, what is refused, and that a sandbox of one is fenced as any other.
//!
//! Case 53 of the list in `fence.rs`: archives with paths that lead outside, devices and setuid files.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod inside;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use inside::{Backend, CommandLine, Server, bash, servers, small_root};
use rota_sandbox::{About, Layer, NotRemoved, Root, UnpackBounds, UnpackError, Unpacking};
use tar::{Builder, EntryType, Header};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BOUNDS: UnpackBounds = UnpackBounds { bytes: 1 << 30, entries: 100_000, time: Duration::from_mins(10) };

/// A kind, a path, and a content or where a link leads.
type Entry<'a> = (EntryType, &'a str, &'a str);

/// A layer of entries.
fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = Header::new_gnu();
        // As it is: the library refuses what a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o4755 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let content = if is_link { "" } else { content };
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A file of a layer.
fn file<'a>(path: &'a str, content: &'a str) -> Entry<'a> {
    (EntryType::Regular, path, content)
}

fn unpack(backend: &Backend, layers: &[Vec<u8>], bounds: UnpackBounds) -> Result<Layer, UnpackError> {
    let new = backend.embedded.images().begin()?;
    let mut image = Unpacking::new(&new, bounds)?;
    for layer in layers {
        image.layer(&layer[..])?;
    }
    let (bytes, files, _) = image.finish()?;
    Ok(new.place(KEY, &About { bytes, files, ..About::default() })?)
}

/// All that is in a folder, with what is in files and where links lead.
fn tree(root: &Path) -> BTreeSet<String> {
    fn add(root: &Path, folder: &Path, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_symlink() {
                into.insert(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if meta.is_dir() {
                into.insert(format!("{name}/"));
                add(root, &path, into);
            } else {
                into.insert(format!("{name}: {}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = BTreeSet::new();
    add(root, root, &mut found);
    found.retain(|name| !name.starts_with("etc"));
    found
}

#[test]
fn layers_are_put_over_each_other() {
    let backend = Backend::new();
    let lower = layer(&[
        (EntryType::Directory, "usr/lib/", ""),
        (EntryType::Symlink, "lib", "usr/lib"),
        (EntryType::Symlink, "absolute", "/usr"),
        file("usr/lib/first", "1"),
        file("gone", "x"),
        file("folder/gone", "x"),
        file("folder/below/gone", "x"),
        file("emptied/lower", "x"),
        file("becomes_folder", "x"),
        file("becomes_file/below", "x"),
    ]);
    let upper = layer(&[
        file("lib/through_link", "2"),
        file("absolute/through_absolute", "3"),
        file(".wh.gone", ""),
        file("folder/.wh.gone", ""),
        file("folder/.wh.below", ""),
        file("folder/.wh.was_never_there", ""),
        file("emptied/upper", "4"),
        file("emptied/.wh..wh..opq", ""),
        file("becomes_folder/below", "5"),
        file("becomes_file", "6"),
        (EntryType::Link, "second_name", "usr/lib/first"),
        (EntryType::Char, "device", ""),
        (EntryType::Fifo, "fifo", ""),
    ]);
    let refused = unpack(&backend, &[lower.clone(), upper.clone()], BOUNDS);
    assert!(refused.is_err(), "a file does not become a folder by what is below it");
    let upper = {
        let mut upper = upper;
        upper.truncate(upper.len() - 1024);
        let at = upper.windows(20).position(|name| name == b"becomes_folder/below").unwrap();
        upper.splice(at..at, layer(&[(EntryType::Directory, "becomes_folder", "")])[..512].to_vec());
        upper
    };
    let image = unpack(&backend, &[lower, upper], BOUNDS).unwrap();
    let expected = [
        "absolute -> /usr",
        "becomes_file: 6",
        "becomes_folder/",
        "becomes_folder/below: 5",
        "emptied/",
        "emptied/upper: 4",
        "folder/",
        "lib -> usr/lib",
        "second_name: 1",
        "usr/",
        "usr/lib/",
        "usr/lib/first: 1",
        "usr/lib/through_link: 2",
        "usr/through_absolute: 3",
    ];
    assert_eq!(tree(image.path()), expected.map(str::to_owned).into());
    let first = image.path().join("usr/lib/first").metadata().unwrap();
    assert_eq!((first.mode() & 0o7777, first.nlink(), first.mtime()), (0o755, 2, 1), "setuid is not kept");
    for made in ["hosts", "hostname", "resolv.conf"] {
        assert!(image.path().join("etc").join(made).is_file(), "{made}");
    }
}

#[test]
fn a_hostile_layer_changes_nothing_outside_and_leaves_nothing() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "before").unwrap();
    let place = outside.path().to_str().unwrap();
    let below = format!("link{place}/file");
    let linked = format!("{place}/file");
    let long = "d/".repeat(40);
    let deep: Vec<Entry<'_>> = vec![file(&long, "")];
    let rows: Vec<(Vec<Entry<'_>>, &str)> = vec![
        (vec![file("../escaped", "x")], "leads outside"),
        (vec![file("a/../../escaped", "x")], "leads outside"),
        (vec![(EntryType::Link, "name", "../../file")], "leads outside"),
        (vec![(EntryType::Link, "name", &linked)], "which is not there"),
        (vec![(EntryType::Symlink, "link", place), file("link/file", "after")], "a link to nowhere"),
        (vec![(EntryType::Symlink, "link", "../../../.."), (EntryType::Link, "name", &below)], "which is not there"),
        (vec![(EntryType::Directory, "folder", ""), (EntryType::Link, "name", "folder")], "which is no file"),
        (vec![file(".wh...", "")], "a whiteout of nothing"),
        (vec![file("etc/.wh..", "")], "a whiteout of nothing"),
        (vec![(EntryType::GNUSparse, "sparse", "")], "a sparse file"),
        (vec![(EntryType::Symlink, "loop", "loop"), file("loop/x", "")], "Too many levels"),
    ];
    for (entries, part) in rows {
        let backend = Backend::new();
        let refused = unpack(&backend, &[layer(&entries)], BOUNDS).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(part), "{entries:?}: {refused}");
        let images = backend.folder.path().join("images");
        assert_eq!(fs::read_dir(images.join(".incoming")).unwrap().count(), 0, "{entries:?}");
        assert!(backend.embedded.images().all().unwrap().is_empty());
        assert!(!images.join("escaped").exists() && !images.join(".incoming/escaped").exists());
    }
    let backend = Backend::new();
    unpack(&backend, &[layer(&deep)], BOUNDS).unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "before");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn an_image_is_bounded_in_bytes_entries_and_time_and_must_be_whole() {
    let two = layer(&[file("one", "12345"), file("two", "67890")]);
    let cut = &two[..512 + 3];
    let left_out = layer(&[(EntryType::Fifo, "fifo", "1234567890")]);
    let mut endless = Header::new_gnu();
    endless.set_entry_type(EntryType::GNULongName);
    endless.set_size(1 << 40);
    endless.set_cksum();
    for (content, bounds, part) in [
        (&two[..], UnpackBounds { bytes: 9, ..BOUNDS }, "more than 9 bytes"),
        (&left_out, UnpackBounds { bytes: 9, ..BOUNDS }, "more than 9 bytes"),
        (&two, UnpackBounds { entries: 1, ..BOUNDS }, "more than 1 files"),
        (&two, UnpackBounds { time: Duration::ZERO, ..BOUNDS }, "took longer than 0 seconds"),
        (cut, BOUNDS, "ends in the middle"),
        (&two[..100], BOUNDS, "unpacking"),
        (endless.as_bytes(), BOUNDS, "an extended header of 1099511627776 bytes"),
    ] {
        let refused = unpack(&Backend::new(), &[content.to_vec()], bounds).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[test]
fn what_was_cut_off_is_no_image_and_is_swept_when_nobody_is_at_work() {
    let backend = Backend::new();
    let images = backend.embedded.images();
    let under_way = images.begin().unwrap();
    // As a process leaves it that was killed: nothing of it runs, and its lock is gone.
    let left = backend.folder.path().join("images/.incoming/left");
    fs::create_dir_all(left.join("files/usr/bin")).unwrap();
    fs::write(left.join("files/usr/bin/program"), "half").unwrap();
    fs::write(left.join("about.json"), "{}").unwrap();
    images.sweep().unwrap();
    assert!(left.exists() && under_way.aside().exists(), "somebody is at work");
    drop(under_way);
    images.sweep().unwrap();
    assert!(!left.exists() && images.all().unwrap().is_empty());
}

#[test]
fn two_of_the_same_are_one_and_one_in_use_is_not_removed() {
    let backend = Backend::new();
    let images = backend.embedded.images().clone();
    let content = layer(&[file("note", "x")]);
    let (first, second) = std::thread::scope(|scope| {
        let unpack = || unpack(&backend, std::slice::from_ref(&content), BOUNDS).unwrap();
        let threads = (scope.spawn(unpack), scope.spawn(unpack));
        (threads.0.join().unwrap(), threads.1.join().unwrap())
    });
    assert_eq!(first.path(), second.path());
    assert_eq!(images.all().unwrap().len(), 1);
    images.name("small", KEY).unwrap();
    assert_eq!(images.named("small").as_deref(), Some(KEY));
    drop(first);
    assert!(matches!(images.remove(KEY).unwrap(), Err(NotRemoved::InUse)));
    drop(second);
    images.remove(KEY).unwrap().unwrap();
    assert!(images.get(KEY).unwrap().is_none());
    assert!(matches!(images.remove(KEY).unwrap(), Err(NotRemoved::Missing)));
}

/// An image of little more than bash, as two layers: the second takes a file away.
fn bash_image(folder: &Path) -> Vec<PathBuf> {
    small_root(&folder.join("root"));
    let first = folder.join("first.tar");
    let options = ["--owner=0", "--group=0", "-C"];
    let mut tar = Command::new("tar");
    tar.args(options).arg(folder.join("root")).arg("-cf").arg(&first).arg(".");
    assert!(tar.status().unwrap().success());
    let second = folder.join("second.tar");
    fs::write(&second, layer(&[file("bin/.wh.mv", ""), file("etc/added", "added")])).unwrap();
    for path in [&first, &second] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    vec![first, second]
}

#[tokio::test]
async fn sessions_share_an_image_and_each_has_its_own_changes() {
    let backend = Backend::new();
    let folder = tempfile::tempdir().unwrap();
    let archives = bash_image(folder.path());
    let new = backend.embedded.images().begin().unwrap();
    let mut unpacking = Unpacking::new(&new, BOUNDS).unwrap();
    for archive in &archives {
        unpacking.layer(File::open(archive).unwrap()).unwrap();
    }
    unpacking.finish().unwrap();
    let environment = vec!["PATH=/bin".to_owned(), "FROM_IMAGE=1".to_owned()];
    let image = new.place(KEY, &About { environment, ..About::default() }).unwrap();
    let before = fs::read_to_string(image.path().join("etc/note")).unwrap();
    let root = Root { image: Some(image.clone()), ..Root::default() };
    let embedded = &backend.embedded;
    let (one, other) = (
        embedded.open_with("one", root.clone().into()).await.unwrap(),
        embedded.open_with("other", root.clone().into()).await.unwrap(),
    );
    let said =
        bash(&one, "echo $PATH $FROM_IMAGE; cat /etc/note /etc/added; ls /bin/mv; echo changed > /etc/note").await;
    assert!(said.content.starts_with("/bin 1\noriginal\nadded"), "{}", said.content);
    assert!(said.content.contains("No such file"), "{}", said.content);
    assert_eq!(bash(&other, "cat /etc/note").await.content, "original\n");
    assert_eq!(fs::read_to_string(image.path().join("etc/note")).unwrap(), before);
    let owner = bash(&one, "id -u; ls -ln /etc/added | { read a b c d e; echo $c $d; }").await.content;
    assert_eq!(owner, "0\n0 0\n", "files of the image are root's inside");
    embedded.stop("one").await;
    let again = embedded.open_with("one", root.clone().into()).await.unwrap();
    assert_eq!(bash(&again, "cat /etc/note").await.content.lines().last(), Some("changed"), "its changes are kept");
    // Only the sandboxes hold it now.
    drop((image, root));
    assert!(matches!(embedded.images().remove(KEY).unwrap(), Err(NotRemoved::InUse)));
    drop((one, other, again));
    embedded.shutdown().await;
    embedded.images().remove(KEY).unwrap().unwrap();
}

#[test]
fn root_of_an_image_owns_its_files_and_they_are_nobody_s_outside() {
    for server in servers() {
        let fence = CommandLine::new(server);
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(fence.import(KEY, &bash_image(folder.path())), "");
        let mut command = fence.command();
        command.env("ROTA_SANDBOX_IMAGE", KEY).arg(fence.data()).arg("s");
        let output = command
            .args(["chmod 600 /etc/note && echo mode; mkdir /bin/new && echo made; chown 7:7 /etc/note && echo given; rm -r /etc"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let given = if server == Server::Root { "given\n" } else { "" };
        assert!(text.starts_with("mode\nmade\n") && text.contains(given), "{server:?}: {text}{output:?}");
        let note = fence.data().join("images").join(KEY).join("files/etc/note");
        let meta = note.metadata().unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o644, "{server:?}");
        if server == Server::Root {
            assert!(meta.uid() > 1_000_000, "{}", meta.uid());
        }
    }
}

#[test]
fn an_importer_that_is_killed_leaves_no_image() {
    let fence = CommandLine::new(servers()[0]);
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("layer.tar");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut import = fence.command();
    let mut child = import.arg(fence.data()).args(["import", KEY]).arg(&fifo).spawn().unwrap();
    // It has begun when it has opened the layer, and it has unpacked the first file when more than a pipe holds was read.
    let mut layer_file = File::options().write(true).open(&fifo).unwrap();
    let whole = layer(&[file("first", &"x".repeat(1 << 20)), file("second", "y")]);
    io::Write::write_all(&mut layer_file, &whole[..(1 << 20) + 512]).unwrap();
    let incoming = fence.data().join("images/.incoming");
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!fence.data().join("images").join(KEY).exists());
    let again = folder.path().join("again.tar");
    fs::write(&again, whole).unwrap();
    assert_eq!(fence.import(KEY, &[again]), "");
    assert!(fence.data().join("images").join(KEY).join("files/second").is_file());
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 1, "it is swept by a start or a command, not by an import");
    let swept = fence.command().arg(fence.data()).arg("sweep").status().unwrap();
    assert!(swept.success());
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0);
}
