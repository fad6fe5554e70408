//! A connection's bytes, watched on their way.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::FramingScanner,
    meter::{Meter, Ticks},
};

/// A stream that reports to its connection's [`Meter`] and looks for ambiguous framing.
pub(crate) struct Watched<S> {
    stream: S,
    meter: Arc<Meter>,
    ticks: Arc<Ticks>,
    scanner: FramingScanner,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, meter: Arc<Meter>, ticks: Arc<Ticks>) -> Self {
        Self { stream, meter, ticks, scanner: FramingScanner::default() }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.meter.write_blocks(&self.ticks),
            Poll::Ready(_) => self.meter.write_moves(),
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            self.meter.bytes_read(&self.ticks);
            if self.scanner.scan(read) {
                self.meter.saw_ambiguous_length();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // Over TLS a write is taken at once and waits here.
        match &result {
            Poll::Pending => self.meter.write_blocks(&self.ticks),
            Poll::Ready(_) => self.meter.write_moves(),
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
