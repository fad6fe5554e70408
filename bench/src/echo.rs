//! A bare hyper server: reads each request whole, answers a body of a fixed size.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Listen on this Unix socket.
    #[arg(long)]
    socket: PathBuf,
    /// And on this address.
    #[arg(long)]
    listen: SocketAddr,
    /// How many bytes each answer's body has.
    #[arg(long)]
    answer_bytes: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(options))
}

async fn serve(options: &Options) -> Result<()> {
    let unix = UnixListener::bind(&options.socket)?;
    let tcp = TcpListener::bind(options.listen).await?;
    let answer = Bytes::from(vec![b'x'; options.answer_bytes]);
    println!("{}", tcp.local_addr()?);
    loop {
        tokio::select! {
            accepted = unix.accept() => connection(accepted?.0, answer.clone()),
            accepted = tcp.accept() => {
                let stream = accepted?.0;
                stream.set_nodelay(true)?;
                connection(stream, answer.clone());
            }
        }
    }
}

fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, answer: Bytes) {
    let service = service_fn(move |request| respond(request, answer.clone()));
    tokio::spawn(async move {
        // A client that goes away is how each measurement ends.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
}

async fn respond(request: Request<Incoming>, answer: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    // A body that breaks off ends the connection by itself.
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(answer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
