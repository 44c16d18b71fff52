//! Pure: the package managers, in the order in which they install, and how each is told to.

use std::fmt::Write as _;

use rota_api::environment::Packages;
use sha2::{Digest, Sha256};

use crate::{hex, limits::PACKAGES_ERROR_BYTES};

/// Changes when packages are installed in another way: what was installed before is then installed anew.
const BUILDER: &str = "1";
/// Where packages are inside, one folder for each manager.
pub(super) const FOLDER: &str = "/mnt/packages";
/// The variable `PATH` of a shell whose image says none.
pub(super) const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    Apt,
    Cargo,
    Gem,
    Go,
    Npm,
    Pip,
}

impl Manager {
    /// In the order in which they install.
    pub(super) const ALL: [Self; 6] = [Self::Apt, Self::Cargo, Self::Gem, Self::Go, Self::Npm, Self::Pip];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Cargo => "cargo",
            Self::Gem => "gem",
            Self::Go => "go",
            Self::Npm => "npm",
            Self::Pip => "pip",
        }
    }

    /// The programs that it needs.
    fn programs(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Cargo => "cargo",
            Self::Gem => "gem",
            Self::Go => "go",
            Self::Npm => "npm",
            Self::Pip => "python3",
        }
    }

    /// What an environment asks it for.
    pub(super) fn of(self, packages: &Packages) -> &[String] {
        match self {
            Self::Apt => &packages.apt,
            Self::Cargo => &packages.cargo,
            Self::Gem => &packages.gem,
            Self::Go => &packages.go,
            Self::Npm => &packages.npm,
            Self::Pip => &packages.pip,
        }
    }

    /// The folder of programs that it installs.
    pub(super) fn path(self) -> Option<String> {
        (self != Self::Apt).then(|| format!("{FOLDER}/{}/bin", self.name()))
    }

    /// The variable by which the language finds what was installed.
    pub(super) fn variable(self) -> Option<String> {
        let folder = format!("{FOLDER}/{}", self.name());
        match self {
            Self::Gem => Some(format!("GEM_PATH={folder}")),
            Self::Npm => Some(format!("NODE_PATH={folder}/lib/node_modules")),
            Self::Pip => Some(format!("PYTHONPATH={folder}")),
            Self::Apt | Self::Cargo | Self::Go => None,
        }
    }

    /// Why a package cannot be asked for.
    pub(super) fn refuses(self, packages: &[String]) -> Option<String> {
        let wrong = packages.iter().find(|package| package.starts_with('-') || package.contains(['\0', '\n']))?;
        Some(format!("config.packages.{}: {wrong:?} is an option and no package", self.name()))
    }

    /// The command of a shell that installs the packages in the manager's folder. What is of use only meanwhile is in `/workspace`, which
    /// is not kept.
    pub(super) fn command(self, packages: &[String]) -> String {
        let (name, program, folder) = (self.name(), self.programs(), format!("{FOLDER}/{}", self.name()));
        let list: String = packages.iter().flat_map(|package| [" ".to_owned(), quoted(package)]).collect();
        let install = match self {
            Self::Apt => {
                let options = "-o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 -o Acquire::Retries=2";
                format!(
                    "apt-get {options} update && apt-get {options} install --yes --no-install-recommends --{list} && \
                     apt-get clean && rm -rf /var/lib/apt/lists/*"
                )
            }
            Self::Cargo => format!("cargo install --root {folder} --{list}"),
            Self::Gem => format!("gem install --no-document --install-dir {folder} --bindir {folder}/bin{list}"),
            Self::Go => packages.iter().map(|package| install_by_go(package)).collect::<Vec<_>>().join(" && "),
            Self::Npm => format!("npm install --global --prefix {folder} --no-audit --no-fund --{list}"),
            Self::Pip => format!(
                "python3 -m pip install --no-input --disable-pip-version-check --no-cache-dir --target {folder} --{list}"
            ),
        };
        let missing =
            format!("the root file system of the environment has no {program}, which installs packages of {name}");
        format!(
            "if ! command -v {program} >/dev/null; then echo '{missing}'; (exit 127); else mkdir -p /workspace/tmp && ( {install} ); fi"
        )
    }
}

/// Variables of the shell in which packages are installed.
pub(super) const WHILE_INSTALLING: [&str; 11] = [
    "HOME=/workspace",
    "TMPDIR=/workspace/tmp",
    "DEBIAN_FRONTEND=noninteractive",
    "CARGO_HOME=/workspace/cargo",
    "CARGO_TARGET_DIR=/workspace/cargo-target",
    "GOPATH=/workspace/go",
    "GOCACHE=/workspace/go-cache",
    "GOBIN=/mnt/packages/go/bin",
    "NPM_CONFIG_CACHE=/workspace/npm",
    "NPM_CONFIG_UPDATE_NOTIFIER=false",
    "PIP_ROOT_USER_ACTION=ignore",
];

/// Variables by which the programs of package managers find authorities, each with the place of a file.
pub(super) const OF_AUTHORITIES: [&str; 7] = [
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
];

fn install_by_go(package: &str) -> String {
    let version = if package.contains('@') { "" } else { "@latest" };
    format!("go install {}", quoted(&format!("{package}{version}")))
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The key of what a manager installs over what those before it have installed: `before` is the key of that, or says what the root file
/// system is. Adding to one of the later managers leaves the earlier keys as they are.
pub(super) fn key(before: &str, manager: Manager, packages: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in
        [BUILDER, std::env::consts::ARCH, before, manager.name()].into_iter().chain(packages.iter().map(String::as_str))
    {
        // Each with its length: no two lists have the same text.
        hash.update(format!("{}:{part},", part.len()));
    }
    hex::digits(&hash.finalize())
}

/// What a session is told of an installation that failed: the manager, its packages, and the end of what it printed.
pub(super) fn failure(manager: Manager, packages: &[String], printed: &str) -> String {
    let mut list = packages.join(", ");
    cut_to(&mut list, 200);
    let mut text = format!("{} could not install {list}", manager.name());
    let end = last(printed.trim(), PACKAGES_ERROR_BYTES);
    if !end.is_empty() {
        let _ = write!(text, ": {end}");
    }
    text
}

/// The last so many bytes of a text, from the beginning of a line where there is one.
pub(super) fn last(text: &str, most: usize) -> &str {
    let Some(mut from) = text.len().checked_sub(most).filter(|from| *from > 0) else { return text };
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = &text[from..];
    end.split_once('\n').map_or(end, |(_, lines)| lines)
}

fn cut_to(text: &mut String, most: usize) {
    if text.len() > most {
        let mut at = most;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_later_manager_s_packages_leave_earlier_keys_as_they_are() {
        let npm = key("image", Manager::Npm, &list(&["left-pad"]));
        let keys = [
            npm.clone(),
            key(&npm, Manager::Pip, &list(&["requests"])),
            key(&npm, Manager::Pip, &list(&["requests", "numpy"])),
            key(&npm, Manager::Pip, &list(&["requestsnumpy"])),
            key("other image", Manager::Npm, &list(&["left-pad"])),
            key("image", Manager::Pip, &list(&["left-pad"])),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(one), "{i}");
            assert_eq!(one.len(), 64);
        }
    }

    #[test]
    fn a_package_is_one_word_whatever_is_in_it() {
        let command = Manager::Pip.command(&list(&["requests>=2,<3", "it's; rm -rf /", "$(id)"]));
        assert!(command.contains(r"-- 'requests>=2,<3' 'it'\''s; rm -rf /' '$(id)' )"), "{command}");
        assert_eq!(
            Manager::Go.command(&list(&["a.example/x", "b.example/y@v1"])).matches("'a.example/x@latest'").count(),
            1
        );
        let refused = Manager::Npm.refuses(&list(&["fine", "--registry=http://evil"])).unwrap();
        assert!(refused.starts_with("config.packages.npm: \"--registry"), "{refused}");
        assert_eq!(Manager::Npm.refuses(&list(&["@scope/name@1"])), None);
    }

    #[test]
    fn a_failure_names_the_manager_its_packages_and_the_last_lines() {
        let printed = format!("{}\nERROR: no such package\n[exit status 1]\n", "line\n".repeat(1000));
        let told = failure(Manager::Pip, &list(&["nothing", "more"]), &printed);
        assert!(told.starts_with("pip could not install nothing, more: line"), "{told}");
        assert!(told.ends_with("ERROR: no such package\n[exit status 1]"), "{told}");
        assert!(told.len() < PACKAGES_ERROR_BYTES + 300);
        assert_eq!(failure(Manager::Apt, &list(&["jq"]), ""), "apt could not install jq");
    }
}
