//! Indexes of packages as pip, npm, cargo and go read them, each with one package that says hello.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use sha2::{Digest, Sha512};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::{
    image_files::{digest, gzip, layer},
    secure::Secure,
};

/// What the package says, in whatever language.
pub const HELLO: &str = "hello from a package";
/// The hosts of the indexes.
pub const PIP: &str = "pip.example";
/// See [`PIP`].
pub const NPM: &str = "npm.example";
/// See [`PIP`].
pub const CARGO: &str = "cargo.example";
/// See [`PIP`].
pub const GO: &str = "go.example";

fn archive(files: &[(String, String)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A wheel with a module and a program.
pub fn wheel() -> Vec<u8> {
    let info = "rota_greeting-1.0.dist-info";
    archive(&[
        ("rota_greeting.py".to_owned(), format!("def main():\n    print('{HELLO}')\n")),
        (format!("{info}/METADATA"), "Metadata-Version: 2.1\nName: rota-greeting\nVersion: 1.0\n".to_owned()),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
        (format!("{info}/entry_points.txt"), "[console_scripts]\nrota-greeting = rota_greeting:main\n".to_owned()),
        (format!("{info}/RECORD"), String::new()),
    ])
}

/// The page of PEP 503 with the wheel, and where that is.
pub fn simple_page(wheel: &[u8]) -> (String, String) {
    let file = "/files/rota_greeting-1.0-py3-none-any.whl";
    let digest = digest(wheel).replace(':', "=");
    (format!("<html><body><a href=\"{file}#{digest}\">{}</a></body></html>", &file[7..]), file.to_owned())
}

/// Has the hosts serve the package.
pub fn publish(hosts: &Secure) {
    pip(hosts);
    npm(hosts);
    cargo(hosts);
    go(hosts);
}

fn pip(hosts: &Secure) {
    let wheel = wheel();
    let (page, file) = simple_page(&wheel);
    hosts.put(format!("{PIP}/simple/rota-greeting/"), "text/html", page);
    hosts.put(format!("{PIP}{file}"), "application/zip", wheel);
}

fn npm(hosts: &Secure) {
    let name = "rota-greeting";
    let about = json!({"name": name, "version": "1.0.0", "main": "index.js"});
    let package = gzip(&layer(&[
        ("package/package.json", 0o644, &about.to_string()),
        ("package/index.js", 0o644, &format!("module.exports = () => console.log('{HELLO}')\n")),
    ]));
    let file = format!("{NPM}/{name}/-/{name}-1.0.0.tgz");
    let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(&package)));
    let mut version = about;
    version["dist"] = json!({"tarball": format!("https://{file}"), "integrity": integrity});
    let document = json!({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}});
    hosts.put(format!("{NPM}/{name}"), "application/json", document.to_string());
    hosts.put(file, "application/octet-stream", package);
}

fn cargo(hosts: &Secure) {
    let (name, version) = ("rota-greeting", "1.0.0");
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n");
    let library = format!("pub const HELLO: &str = \"{HELLO}\";\n");
    let program = "fn main() { println!(\"{}\", rota_greeting::HELLO) }\n";
    let at = |path: &str| format!("{name}-{version}/{path}");
    let package = gzip(&layer(&[
        (&at("Cargo.toml"), 0o644, &manifest),
        (&at("src/lib.rs"), 0o644, &library),
        (&at("src/main.rs"), 0o644, program),
    ]));
    let checksum = digest(&package).replace("sha256:", "");
    let line = json!({"name": name, "vers": version, "deps": [], "cksum": checksum, "features": {}, "yanked": false});
    describe_cargo(hosts, false);
    hosts.put(format!("{CARGO}/index/ro/ta/{name}"), "text/plain", format!("{line}\n"));
    hosts.put(format!("{CARGO}/files/{name}/{version}/download"), "application/octet-stream", package);
}

/// Has the registry of cargo say that it is for those with a token.
pub fn cargo_wants_tokens(hosts: &Secure) {
    describe_cargo(hosts, true);
}

fn describe_cargo(hosts: &Secure, wants_tokens: bool) {
    let config = json!({"dl": format!("https://{CARGO}/files"), "api": null, "auth-required": wants_tokens});
    hosts.put(format!("{CARGO}/index/config.json"), "application/json", config.to_string());
}

fn go(hosts: &Secure) {
    let (module, version) = ("rota.example/greeting", "v1.0.0");
    let manifest = format!("module {module}\n\ngo 1.20\n");
    let source = format!("package greeting\n\nconst Hello = \"{HELLO}\"\n");
    let at = |path: &str| format!("{module}@{version}/{path}");
    let package = archive(&[(at("go.mod"), manifest.clone()), (at("greeting.go"), source)]);
    let of = |end: &str| format!("{GO}/{module}/@v/{end}");
    let about = json!({"Version": version, "Time": "2026-01-01T00:00:00Z"});
    hosts.put(of("list"), "text/plain", format!("{version}\n"));
    hosts.put(of(&format!("{version}.info")), "application/json", about.to_string());
    hosts.put(of(&format!("{version}.mod")), "text/plain", manifest);
    hosts.put(of(&format!("{version}.zip")), "application/zip", package);
}
