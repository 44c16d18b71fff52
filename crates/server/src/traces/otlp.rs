//! Pure: spans as OTLP has them in JSON.

use serde_json::{Value, json};

use super::Ended;
use crate::hex;

/// The request that sends `spans` of a server that is called `node`.
pub(super) fn request(node: &str, spans: &[Ended]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [("service.name", "rota"), ("service.version", version), ("service.instance.id", node)];
    let resource: Vec<Value> = resource.iter().map(|(key, text)| attribute(key, &(*text).into())).collect();
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "rota", "version": version}, "spans": spans}],
    }]})
}

fn span(ended: &Ended) -> Value {
    let Ended { context, parent, name, side, began_at, seconds, attributes, error } = ended;
    let began = i128::from(began_at.micros()) * 1000;
    let attributes: Vec<Value> = attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let mut span = json!({
        "traceId": hex::digits(&context.trace),
        "spanId": hex::digits(&context.span),
        "name": name,
        "kind": *side as u8,
        "startTimeUnixNano": began.to_string(),
        "endTimeUnixNano": (began + (seconds * 1e9) as i128).to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = parent {
        span["parentSpanId"] = hex::digits(parent).into();
    }
    if let Some(error) = error {
        span["status"] = json!({"code": 2, "message": error});
    }
    span
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({"key": key, "value": any(value)})
}

fn any(value: &Value) -> Value {
    match value {
        Value::Bool(truth) => json!({"boolValue": truth}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        // As JSON has 64 bits in Protocol Buffers.
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(values) => json!({"arrayValue": {"values": values.iter().map(any).collect::<Vec<_>>()}}),
        Value::Null | Value::Object(_) => json!({"stringValue": value.to_string()}),
    }
}
