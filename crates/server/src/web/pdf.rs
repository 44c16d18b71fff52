//! The text of a PDF, within bounds: a small file can hold a large one.

use std::cell::Cell;

use lopdf::{Document, LoadOptions, Object, ObjectId};

use super::Failure;
use crate::{
    clock::Stopwatch,
    limits::{WEB_PAGE_CHARACTERS, WEB_PDF_OBJECTS, WEB_PDF_PAGES, WEB_PDF_STREAM_BYTES, WEB_PDF_TIME},
};

thread_local! {
    /// Objects that the document which this thread reads may still have.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// The title and the text. What cannot be read of a page is left out.
pub(super) fn text(pdf: &[u8]) -> Result<(Option<String>, String), Failure> {
    let since = Stopwatch::start();
    LEFT.set(WEB_PDF_OBJECTS);
    let options = LoadOptions {
        filter: Some(while_there_is_room),
        max_decompressed_size: Some(WEB_PDF_STREAM_BYTES),
        ..LoadOptions::default()
    };
    let unreadable = |why| Failure::fetch("url_not_accessible", format_args!("the PDF cannot be read: {why}"));
    let document = Document::load_mem_with_options(pdf, options).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    for number in document.get_pages().into_keys().take(WEB_PDF_PAGES) {
        let chunks = document.extract_text_chunks_with_limit(&[number], WEB_PDF_STREAM_BYTES);
        chunks.into_iter().filter_map(Result::ok).for_each(|chunk| text.push_str(&chunk));
        // More than is shown need not be read.
        if text.len() > 4 * WEB_PAGE_CHARACTERS || since.seconds() > WEB_PDF_TIME.as_secs_f64() {
            break;
        }
    }
    if text.trim().is_empty() && document.was_encrypted() {
        return Err(unreadable("it is encrypted".to_owned()));
    }
    Ok((title(&document), text.trim().to_owned()))
}

/// Leaves out objects once there are too many.
fn while_there_is_room(id: ObjectId, object: &mut Object) -> Option<(ObjectId, Object)> {
    let left = LEFT.get().checked_sub(size_of(object))?;
    LEFT.set(left);
    Some((id, object.clone()))
}

/// The objects in an object. The parser bounds how deep they are within each other.
fn size_of(object: &Object) -> usize {
    match object {
        Object::Array(items) => 1 + items.iter().map(size_of).sum::<usize>(),
        Object::Dictionary(fields) => 1 + fields.iter().map(|(_, field)| size_of(field)).sum::<usize>(),
        Object::Stream(stream) => 1 + stream.dict.iter().map(|(_, field)| size_of(field)).sum::<usize>(),
        _ => 1,
    }
}

fn title(document: &Document) -> Option<String> {
    let info = document.trailer.get(b"Info").and_then(|info| document.dereference(info)).ok()?.1;
    let title =
        info.as_dict().and_then(|info| info.get(b"Title")).and_then(|title| document.dereference(title)).ok()?.1;
    let title = lopdf::decode_text_string(title).ok()?;
    Some(title.trim().chars().take(300).collect::<String>()).filter(|title| !title.is_empty())
}

#[cfg(test)]
mod tests {
    use lopdf::{Stream, dictionary};

    use super::*;

    /// A document with a page for each of these contents.
    fn pdf(title: &str, contents: Vec<Stream>) -> Vec<u8> {
        let mut document = Document::with_version("1.5");
        let pages = document.new_object_id();
        let font = document.add_object(dictionary! {"Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Courier"});
        let resources = document.add_object(dictionary! {"Font" => dictionary! {"F1" => font}});
        let kids: Vec<Object> = contents
            .into_iter()
            .map(|content| {
                let content = document.add_object(content);
                document.add_object(dictionary! {"Type" => "Page", "Parent" => pages, "Contents" => content}).into()
            })
            .collect();
        let count = kids.len() as i64;
        let tree = dictionary! {"Type" => "Pages", "Kids" => kids, "Count" => count, "Resources" => resources,
        "MediaBox" => vec![0.into(), 0.into(), 595.into(), 842.into()]};
        document.objects.insert(pages, Object::Dictionary(tree));
        let catalog = document.add_object(dictionary! {"Type" => "Catalog", "Pages" => pages});
        document.trailer.set("Root", catalog);
        let info = document.add_object(dictionary! {"Title" => Object::string_literal(title)});
        document.trailer.set("Info", info);
        let mut bytes = Vec::new();
        document.save_to(&mut bytes).unwrap();
        bytes
    }

    fn says(text: &str) -> Stream {
        Stream::new(dictionary! {}, format!("BT /F1 12 Tf 100 600 Td ({text}) Tj ET").into_bytes())
    }

    #[test]
    fn the_pages_of_a_pdf_are_text() {
        let (title, text) = text(&pdf("A report", vec![says("Hello world"), says("Second page")])).unwrap();
        assert_eq!(title.as_deref(), Some("A report"));
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["Hello", "world", "Second", "page"]);
    }

    #[test]
    fn what_is_unpacked_to_too_much_is_left_out() {
        let mut bomb = Stream::new(dictionary! {}, vec![b' '; WEB_PDF_STREAM_BYTES + 1]);
        bomb.compress().unwrap();
        let bytes = pdf("", vec![bomb, says("after it")]);
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        let (title, text) = text(&bytes).unwrap();
        assert_eq!((title, &*text), (None, "after it"));
    }

    #[test]
    fn what_is_no_pdf_is_refused_in_words() {
        let whole = pdf("t", vec![says("Hello")]);
        for broken in [&b"%PDF-1.7"[..], b"", &whole[..whole.len() / 3]] {
            let refused = text(broken).unwrap_err().to_string();
            assert!(refused.starts_with("Web fetch error: url_not_accessible — the PDF cannot be read: "), "{refused}");
        }
    }

    #[test]
    fn objects_are_counted_with_all_that_is_in_them() {
        let nested = Object::Array(vec![1.into(), dictionary! {"A" => vec![2.into(), 3.into()]}.into()]);
        assert_eq!(size_of(&nested), 6);
        LEFT.set(7);
        assert!(while_there_is_room((1, 0), &mut nested.clone()).is_some());
        assert!(while_there_is_room((2, 0), &mut nested.clone()).is_none());
        assert!(while_there_is_room((3, 0), &mut Object::Null).is_some());
    }
}
