//! Packages of environments as the real package managers install them: from hosts of the test under the names of the registries,
//! and `apt` from Debian's own.

use std::{
    fs,
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    process::Command,
    time::Duration,
};

use rota_server::config::Config;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    client::Api,
    given::{Parts, agent, id, script},
    image_files::Image,
    images::{give, import},
    indexes::{self, CARGO, HELLO},
    secure::Secure,
    server::{PATIENCE, Rota},
    stream::text,
};

/// A server whose installations reach `hosts` by these names.
async fn reaching(hosts: &Secure, names: &[&str], configure: impl FnOnce(&mut Config)) -> Rota {
    Rota::with(|config| {
        config.network.open = vec!["127.0.0.1".to_owned()];
        config.network.hosts = hosts.hosts(names).into_iter().collect();
        config.packages.hosts = names.iter().map(|name| (*name).to_owned()).collect();
        config.packages.authorities = Some(hosts.authority.file());
        configure(config);
    })
    .await
}

async fn environment(api: &Api, packages: Value) -> Value {
    let config = json!({"type": "cloud", "packages": packages, "networking": {"type": "limited", "allow_package_managers": true}});
    api.post("/v1/environments", json!({"name": packages.to_string(), "config": config})).await
}

/// What a session of the environment says to a command. An installation may take long on a machine at work.
async fn said(api: &Api, environment: Value, command: &str) -> String {
    let parts = Parts { agent: agent(api, json!({})).await, environment };
    let session = parts.session_with(api, script(command)).await;
    let path = format!("/v1/sessions/{}/events?limit=100", id(&session));
    let looking = async {
        loop {
            let page = api.get(&path).await;
            let events = page["data"].as_array().unwrap();
            let failed = events.iter().find(|event| event["type"] == "session.error");
            assert_eq!(failed, None, "the packages are installed");
            if let Some(result) = events.iter().find(|event| event["type"] == "agent.tool_result") {
                return text(result).to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(10 * PATIENCE, looking).await.expect("a result")
}

#[tokio::test]
#[cfg_attr(not(cargo_inside), ignore = "needs a cargo below /usr: apt install cargo-web")]
async fn cargo_installs_programs_once_for_all_sessions() {
    let hosts = Secure::start(&[CARGO]).await;
    indexes::publish(&hosts);
    let server = reaching(&hosts, &[CARGO], |config| {
        config.packages.variables = [
            ("CARGO_REGISTRIES_HOUSE_INDEX".to_owned(), format!("sparse+https://{CARGO}/index/")),
            ("CARGO_REGISTRY_DEFAULT".to_owned(), "house".to_owned()),
        ]
        .into();
    })
    .await;
    let environment = environment(&server.api, json!({"cargo": ["rota-greeting"]})).await;
    for _ in 0..2 {
        let said = said(&server.api, environment.clone(), "rota-greeting; command -v rota-greeting").await;
        assert_eq!(said, format!("{HELLO}\n/mnt/packages/cargo/bin/rota-greeting\n"));
    }
    let fetched = hosts.seen().iter().filter(|request| request.contains("/download")).count();
    assert_eq!(fetched, 1, "{:?}", hosts.seen());
}

#[tokio::test]
#[cfg_attr(not(gem_inside), ignore = "needs RubyGems: apt install ruby")]
async fn gem_installs_from_its_registry() {
    const NAMES: [&str; 2] = ["rubygems.org", "index.rubygems.org"];
    let hosts = Secure::start(&NAMES).await;
    let folder = tempfile::tempdir().unwrap();
    let build = format!(
        "mkdir -p lib bin gems && echo \"def greet; puts '{HELLO}'; end\" > lib/rota_greeting.rb && \
         printf '#!/usr/bin/env ruby\\nrequire \"rota_greeting\"\\ngreet\\n' > bin/rota-greeting && chmod +x bin/rota-greeting && \
         cat > g.gemspec <<'END'\nGem::Specification.new do |s|\n s.name = 'rota-greeting'; s.version = '1.0.0'; s.summary = 'x'; \
         s.authors = ['x']\n s.files = ['lib/rota_greeting.rb', 'bin/rota-greeting']; s.executables = ['rota-greeting']\nend\nEND\n\
         /usr/bin/gem build -q g.gemspec && mv *.gem gems && /usr/bin/gem generate_index -q --directory ."
    );
    let built = Command::new("bash").args(["-ec", &build]).current_dir(folder.path()).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    put_all(&hosts, NAMES[0], folder.path(), folder.path());
    hosts.put(format!("{}/nothing", NAMES[1]), "text/plain", "");
    let server = reaching(&hosts, &NAMES, |_| {}).await;
    let environment = environment(&server.api, json!({"gem": ["rota-greeting"]})).await;
    let said = said(&server.api, environment, "rota-greeting; ruby -e 'require \"rota_greeting\"; greet'").await;
    assert_eq!(said, format!("{HELLO}\n{HELLO}\n"));
}

/// Has a host serve what is in a folder.
fn put_all(hosts: &Secure, host: &str, root: &Path, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            put_all(hosts, host, root, &path);
        } else {
            let place = format!("{host}/{}", path.strip_prefix(root).unwrap().display());
            hosts.put(place, "application/octet-stream", fs::read(&path).unwrap());
        }
    }
}

/// The host of Debian's packages.
const DEBIAN: &str = "deb.debian.org";

/// What apt and dpkg need of this machine, as an image on which nothing is installed but the C library.
const OF_DEBIAN: &str = r#"
for name in bin sbin lib lib32 lib64; do [ -L /$name ] && ln -s usr/$name $name; done
mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc/apt/preferences.d etc/apt/apt.conf.d etc/dpkg/dpkg.cfg.d tmp \
  var/lib/dpkg/info var/lib/dpkg/updates var/lib/dpkg/triggers var/lib/apt/lists/partial var/cache/apt/archives/partial \
  var/log/apt usr/share/keyrings
programs="bash sh apt-get apt-config apt-key dpkg dpkg-deb dpkg-query dpkg-split gpgv tar gzip xz cat chmod cmp cp cut diff echo \
  env find grep head id ln ls mkdir mktemp mv readlink rm sed sort stat tail test touch tr true uname wc"
for p in $programs; do [ -z "$(type -P $p)" ] || cp -L "$(type -P $p)" usr/bin/; done
for p in /sbin/ldconfig /sbin/start-stop-daemon; do cp -L $p usr/bin/; done
cp -a /usr/lib/apt usr/lib/
cp -a --parents /usr/share/dpkg .
for f in $( (ldd usr/bin/* usr/lib/apt/methods/* usr/lib/apt/solvers/* 2>/dev/null || true) | grep -o '/[^ ]* (0x' | cut -d' ' -f1 | sort -u); do
  mkdir -p .$(dirname $f) && cp -L $f .$f
done
cp /usr/share/keyrings/debian-archive-keyring.gpg usr/share/keyrings/
. /etc/os-release
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $VERSION_CODENAME main" > etc/apt/sources.list
dpkg-query -W -f 'Package: libc6\nStatus: install ok installed\nMulti-Arch: same\nMaintainer: x\nArchitecture: ${Architecture}\nVersion: ${Version}\nDescription: x\n\n' libc6 > var/lib/dpkg/status
touch var/lib/dpkg/info/libc6:$(dpkg --print-architecture).list var/lib/dpkg/available
printf 'root:x:0:0:root:/root:/bin/bash\n_apt:x:100:65534::/nonexistent:/bin/false\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
chmod -R a+rX .
"#;

/// An image of Debian's package manager, or why there is none.
fn debian() -> Result<Image, String> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let made = Command::new("bash").args(["-ec", OF_DEBIAN]).current_dir(&root).output().unwrap();
    if !made.status.success() {
        return Err(format!("this machine is no Debian: {}", String::from_utf8_lossy(&made.stderr)));
    }
    let packed = folder.path().join("root.tar");
    let tar =
        Command::new("tar").args(["--owner=0", "--group=0", "-cf"]).arg(&packed).arg("-C").arg(&root).arg(".").status();
    assert!(tar.unwrap().success());
    Ok(Image::of(vec![fs::read(packed).unwrap()]))
}

#[tokio::test]
async fn apt_installs_a_package_of_debian() {
    let addresses: Vec<_> = (DEBIAN, 80).to_socket_addrs().into_iter().flatten().collect();
    let is_reached = |address| TcpStream::connect_timeout(address, Duration::from_secs(5)).is_ok();
    if !addresses.iter().any(is_reached) {
        eprintln!("skipped: an installation by apt, because this machine does not reach {DEBIAN}");
        return;
    }
    let image = match debian() {
        Ok(image) => image,
        Err(why) => return eprintln!("skipped: an installation by apt: {why}"),
    };
    let server = Rota::with(|config| {
        // A mirror may be at a private address.
        config.network.open = addresses.iter().map(|address| address.ip().to_string()).collect();
    })
    .await;
    import(&image, "debian", &server.server.app().config.data.clone()).await;
    let environment = environment(&server.api, json!({"apt": ["hello"]})).await;
    give(&server.api, &environment, "debian").await;
    let command = "hello; dpkg-query -W -f '${Status}\\n' hello; ls /var/lib/apt/lists";
    let said = said(&server.api, environment.clone(), command).await;
    assert_eq!(said, "Hello, world!\ninstall ok installed\n");
    let built = server.api.get(&format!("/rota/v1/environments/{}/build", id(&environment))).await;
    assert_eq!(built["state"], "ready");
}
