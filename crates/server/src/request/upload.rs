//! Bodies with files in them, `multipart/form-data`: read piece by piece, so that no file is ever in memory as a whole.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::BodyDataStream,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use futures_util::Stream;
use http::header;
use multer::Multipart;
use tokio::time::timeout;

use super::{Coding, Query};
use crate::{
    error::{Error, Result},
    limits::{UPLOAD_EXTRA_BYTES, UPLOAD_IDLE_TIMEOUT},
};

/// A body of several parts, of an operation that has no parameters in its query. It is the one kind of body that is not there
/// before the handler acts: a handler reads all of it before it changes anything that another request can see.
pub struct Upload {
    parts: Multipart<'static>,
    fed: Arc<AtomicUsize>,
}

/// A part of such a body. The next one can be read when this is dropped.
pub struct Part {
    /// The name of the field.
    pub name: String,
    /// The name of the file, for a part that is one.
    pub filename: Option<String>,
    /// The type of its content, as the client says.
    pub content_type: Option<String>,
    field: multer::Field<'static>,
    fed: Arc<AtomicUsize>,
}

impl<S: Sync> FromRequest<S> for Upload {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        Query::none(request.uri())?;
        if Coding::of(request.headers())? != Coding::Plain {
            return Err(Error::invalid("content-encoding: files are taken as they are; send the body without gzip"));
        }
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let boundary = content_type
            .and_then(|value| multer::parse_boundary(value).ok())
            .ok_or_else(|| Error::invalid("content-type: must be multipart/form-data with a boundary"))?;
        let fed = Arc::new(AtomicUsize::new(0));
        let pieces = Pieces { body: request.into_body().into_data_stream(), fed: fed.clone(), pauses: false };
        Ok(Self { parts: Multipart::new(pieces, boundary), fed })
    }
}

impl Upload {
    /// The next part; `None` at the end of the body.
    ///
    /// # Errors
    /// 400 when the body breaks off, is silent for long, or is not what it says.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        let field = in_time(self.parts.next_field()).await?;
        self.fed.store(0, Ordering::Relaxed);
        Ok(field.map(|field| Part {
            name: field.name().unwrap_or_default().to_owned(),
            filename: field.file_name().map(str::to_owned),
            content_type: field.content_type().map(|r#type| r#type.essence_str().to_owned()),
            field,
            fed: self.fed.clone(),
        }))
    }
}

impl Part {
    /// The next piece of the part's content; `None` at its end.
    ///
    /// # Errors
    /// Those of [`Upload::next`].
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = in_time(self.field.chunk()).await?;
        self.fed.store(0, Ordering::Relaxed);
        Ok(piece)
    }

    /// The part's content as a text of at most so many bytes.
    ///
    /// # Errors
    /// Those of [`Upload::next`], and 400 when it is longer or not UTF-8.
    pub async fn text(mut self, most: usize) -> Result<String> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            if bytes.len() + piece.len() > most {
                return Err(Error::invalid(format_args!(
                    "{}: value must contain no more than {most} bytes",
                    self.name
                )));
            }
            bytes.extend_from_slice(&piece);
        }
        String::from_utf8(bytes).map_err(|_| Error::invalid(format_args!("{}: value must be UTF-8", self.name)))
    }
}

async fn in_time<T>(reading: impl Future<Output = multer::Result<T>>) -> Result<T> {
    let read = timeout(UPLOAD_IDLE_TIMEOUT, reading).await.map_err(|_| {
        let seconds = UPLOAD_IDLE_TIMEOUT.as_secs();
        Error::invalid(format_args!("the body could not be read: nothing came for {seconds} seconds"))
    })?;
    read.map_err(|error| {
        let why = match error {
            multer::Error::StreamReadFailed(cause) => cause.to_string(),
            other => other.to_string(),
        };
        Error::invalid(format_args!("the body could not be read: {why}"))
    })
}

/// The pieces of a body, one each time that somebody asks: the parser takes in whatever is there, and holds what it cannot
/// tell apart yet.
struct Pieces {
    body: BodyDataStream,
    /// Bytes since the parser last gave something.
    fed: Arc<AtomicUsize>,
    pauses: bool,
}

impl Stream for Pieces {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.pauses) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            self.pauses = true;
            if self.fed.fetch_add(piece.len(), Ordering::Relaxed) > UPLOAD_EXTRA_BYTES {
                let problem = format!("what is between its parts is longer than {UPLOAD_EXTRA_BYTES} bytes");
                return Poll::Ready(Some(Err(problem.into())));
            }
        }
        polled.map(|next| next.map(|piece| piece.map_err(Into::into)))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(body: Body) -> Request {
        let request = Request::builder().method("POST").uri("/v1/files");
        request.header("content-type", "multipart/form-data; boundary=x").body(body).unwrap()
    }

    async fn read(body: Body) -> Result<Vec<(String, Option<String>, Vec<u8>)>> {
        let mut upload = Upload::from_request(request(body), &()).await?;
        let mut parts = Vec::new();
        while let Some(mut part) = upload.next().await? {
            let mut content = Vec::new();
            while let Some(piece) = part.piece().await? {
                content.extend_from_slice(&piece);
            }
            parts.push((part.name.clone(), part.filename.clone(), content));
        }
        Ok(parts)
    }

    fn in_pieces(text: &[u8], size: usize) -> Body {
        let pieces: Vec<_> = text.chunks(size).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    fn form(content: &[u8]) -> Vec<u8> {
        let head =
            b"--x\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n7\r\n--x\r\nContent-Disposition: form-data; \
            name=\"file\"; filename=\"a\"\r\n\r\n";
        [head, content, b"\r\n--x--\r\n"].concat()
    }

    #[tokio::test]
    async fn a_part_is_the_same_however_its_bytes_arrive() {
        let content = b"\r\n--y\r\n--".repeat(500);
        let wanted =
            vec![("n".to_owned(), None, b"7".to_vec()), ("file".to_owned(), Some("a".to_owned()), content.clone())];
        for size in [1, 3, 1000, 1_000_000] {
            assert_eq!(read(in_pieces(&form(&content), size)).await.unwrap(), wanted, "{size}");
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_or_has_no_parts_is_refused_and_not_held() {
        let whole = form(b"content");
        for length in [0, 10, 60, whole.len() - 12] {
            let error = read(in_pieces(&whole[..length], 7)).await.unwrap_err();
            assert!(error.to_string().starts_with("the body could not be read: "), "{length}: {error}");
        }
        let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 10_000]));
        let error = read(Body::from_stream(endless)).await.unwrap_err().to_string();
        assert!(error.contains("between its parts"), "{error}");
    }
}
