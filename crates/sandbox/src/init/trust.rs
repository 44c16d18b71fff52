//! The authorities that programs inside trust, where they are to be others than those of the root file system.
//!
//! They are one file, which is read-only, and which stands in the place of the usual ones. Programs that have a list of their own
//! are told of it by a variable, and Java of another file.

/// The folder of the file, in a file system of its own.
pub(crate) const FOLDER: &str = "run/rota";
/// The file.
pub(crate) const FILE: &str = "authorities.pem";
/// The same for Java.
pub(crate) const KEYSTORE: &str = "authorities.jks";
/// Bytes of that file system, in which nothing else is.
pub(super) const BYTES: u64 = 8 << 20;

/// Where Linux distributions have such a file. Where one is a link, it leads to another one here.
pub(crate) const USUAL: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/cert.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/tls/cert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Variables with which programs are told of such a file: OpenSSL, Go and Ruby; curl; git; Python's requests and pip; Node.js;
/// cargo; Deno; Nix; gRPC; the command lines of AWS and Google Cloud.
const VARIABLES: [&str; 12] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "AWS_CA_BUNDLE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// The variables that tell of the file.
pub(super) fn variables() -> impl Iterator<Item = String> {
    let java = format!("JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=/{FOLDER}/{KEYSTORE}");
    VARIABLES.into_iter().map(|name| format!("{name}=/{FOLDER}/{FILE}")).chain([java])
}
