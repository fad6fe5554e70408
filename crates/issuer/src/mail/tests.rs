use std::sync::Mutex;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Pauses = [Duration::from_millis(1); 3];

/// Carries mails into memory; fails as told first.
#[derive(Default)]
struct Scripted {
    failures: Mutex<Vec<SendError>>,
    carried: Mutex<Vec<String>>,
    tries: AtomicU64,
}

impl Post for Scripted {
    fn sender(&self) -> Option<&str> {
        Some("Shop <no-reply@shop.example>")
    }

    fn carry<'a>(&'a self, mail: &'a Prepared) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>> {
        Box::pin(async move {
            self.tries.fetch_add(1, Relaxed);
            if let Some(error) = self.failures.lock().unwrap().pop() {
                return Err(error);
            }
            self.carried.lock().unwrap().push(String::from_utf8(mail.message.formatted()).unwrap());
            Ok(())
        })
    }
}

fn of(policy: &str) -> Sending {
    Sending { policy: policy.parse().unwrap(), from: None, smtp: None }
}

fn shop() -> Sending {
    of("shop/shop")
}

fn reset() -> Notice {
    let link = format!("https://auth.shop.example/auth/reset-password?token={}", "t".repeat(43));
    Notice::ResetPassword { link, valid_for_ms: 3_600_000 }
}

#[tokio::test]
async fn a_mail_that_fails_in_passing_is_tried_again_and_another_is_given_up() {
    let unreachable = || SendError::Unreachable("can't be reached");
    for (failures, counts, tries) in [
        (vec![], (1, 0), 1),
        (vec![unreachable(); 3], (1, 0), 4),
        (vec![unreachable(); 4], (0, 1), 4),
        (vec![SendError::Refused("550".into())], (0, 1), 1),
    ] {
        let post = Arc::new(Scripted { failures: Mutex::new(failures.clone()), ..Scripted::default() });
        let mailer = Mailer::over(post.clone(), true, SOON);
        mailer.send(&shop(), "ann@shop.example", reset());
        assert!(mailer.settled(PATIENCE).await, "{failures:?}");
        let MailCounts { sent, failed, dropped } = mailer.counts();
        assert_eq!(((sent, failed), post.tries.load(Relaxed), dropped), (counts, tries, 0), "{failures:?}");
    }
}

#[tokio::test]
async fn a_full_queue_drops_mails_and_holds_nobody_up() {
    let mailer = Mailer::over(Arc::new(Scripted::default()), true, SOON);
    for _ in 0..QUEUE + 10 {
        mailer.send(&shop(), "ann@shop.example", reset());
    }
    assert_eq!(mailer.counts().dropped, 10);
    assert!(mailer.settled(PATIENCE).await);
    assert_eq!(mailer.counts().sent, QUEUE as u64);
}

/// Carries nothing to `dead.example`, ever; the rest into memory.
#[derive(Default)]
struct HalfDead(watch::Sender<Vec<String>>);

impl Post for HalfDead {
    fn sender(&self) -> Option<&str> {
        Some("Shop <no-reply@shop.example>")
    }

    fn carry<'a>(&'a self, mail: &'a Prepared) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>> {
        Box::pin(async move {
            if mail.to.ends_with("@dead.example") {
                return std::future::pending().await;
            }
            self.0.send_modify(|carried| carried.push(mail.to.clone()));
            Ok(())
        })
    }
}

#[tokio::test]
async fn one_policy_s_dead_server_holds_up_no_other_s_mails() {
    let post = Arc::new(HalfDead::default());
    let mailer = Mailer::over(post.clone(), true, SOON);
    for _ in 0..QUEUE + 3 {
        mailer.send(&of("shop/dead"), "ann@dead.example", reset());
    }
    assert_eq!(mailer.counts().dropped, 3);
    mailer.send(&shop(), "bob@shop.example", reset());
    let mut carried = post.0.subscribe();
    let carried = tokio::time::timeout(PATIENCE, carried.wait_for(|carried| !carried.is_empty())).await.unwrap();
    assert_eq!(*carried.unwrap(), ["bob@shop.example"]);
    assert_eq!(mailer.counts().dropped, 3);
}

#[tokio::test]
async fn a_mail_that_waits_for_its_next_try_keeps_no_other_from_going() {
    let failures = vec![SendError::Unreachable("can't be reached"); AT_ONCE];
    let post = Arc::new(Scripted { failures: Mutex::new(failures), ..Scripted::default() });
    let mailer = Mailer::over(post.clone(), true, [Duration::from_secs(1_000_000); 3]);
    for _ in 0..=AT_ONCE {
        mailer.send(&shop(), "ann@shop.example", reset());
    }
    let mut pending = mailer.pending.subscribe();
    tokio::time::timeout(PATIENCE, pending.wait_for(|n| *n == AT_ONCE)).await.unwrap().unwrap();
    assert_eq!((mailer.counts().sent, post.tries.load(Relaxed)), (1, AT_ONCE as u64 + 1));
}

#[tokio::test]
async fn a_mail_is_from_the_policy_to_one_address_with_the_link_as_it_is() {
    let post = Arc::new(Scripted::default());
    let mailer = Mailer::over(post.clone(), true, SOON);
    mailer.send(&shop(), "ann@shop.example", reset());
    let own = Sending { from: Some("Other <other@shop.example>".into()), ..shop() };
    mailer.send(&own, "ann@shop.example", reset());
    assert!(mailer.settled(PATIENCE).await);
    let carried = post.carried.lock().unwrap();
    let default = carried.iter().find(|mail| mail.contains("From: Shop <no-reply@shop.example>")).unwrap();
    assert!(carried.iter().any(|mail| mail.contains("From: Other <other@shop.example>")));
    let (head, body) = default.split_once("\r\n\r\n").unwrap();
    for line in
        ["To: ann@shop.example", "Subject: Reset your password", "Auto-Submitted: auto-generated", "MIME-Version: 1.0"]
    {
        assert!(head.lines().any(|l| l == line), "{line} in {head}");
    }
    assert!(body.contains(&format!("\r\nhttps://auth.shop.example/auth/reset-password?token={}\r\n", "t".repeat(43))));
    assert!(body.contains("text/plain") && body.contains("text/html"));
}

#[tokio::test]
async fn what_a_person_typed_adds_no_header() {
    let post = Arc::new(Scripted::default());
    let mailer = Mailer::over(post.clone(), true, SOON);
    for to in ["ann@shop.example\r\nBcc: x@y.example", "ann@shop.example, x@y.example", "", "ann", "<ann@shop.example>\r\n"]
    {
        mailer.send(&shop(), to, reset());
    }
    let from = Sending { from: Some("Shop\r\nBcc: x@y.example <a@shop.example>".into()), ..shop() };
    mailer.send(&from, "ann@shop.example", reset());
    assert!(mailer.settled(PATIENCE).await);
    for mail in &*post.carried.lock().unwrap() {
        let head = mail.split("\r\n\r\n").next().unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc") || line.contains("x@y.example>")), "{head}");
    }
    assert!(mailer.counts().failed >= 4, "{:?}", mailer.counts());
}

#[tokio::test]
async fn an_outbox_keeps_mails_for_its_owner_and_tells_of_the_link() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outbox");
    let told: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let tells = told.clone();
    let outbox = Outbox::new(path.clone(), move |kept| tells.lock().unwrap().push(kept.link.map(str::to_owned)));
    let mailer = Mailer::new(Delivery::Outbox(outbox), Reach::default());
    mailer.send(&shop(), "ann@shop.example", reset());
    mailer.send(&shop(), "ünder@straße.example", Notice::AddressChanged);
    assert!(mailer.settled(PATIENCE).await);
    assert_eq!(mailer.counts(), MailCounts { sent: 2, failed: 0, dropped: 0 });
    let files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    for file in &files {
        assert_eq!(file.extension().unwrap(), "eml");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let link = told.lock().unwrap().iter().flatten().next().cloned().unwrap();
    assert!(files.iter().any(|file| std::fs::read_to_string(file).unwrap().contains(&link)), "the link can be copied");
}

#[tokio::test]
async fn without_a_server_nothing_is_sent_and_a_policy_s_own_server_still_is() {
    let mailer = Mailer::new(Delivery::Disabled, Reach::default());
    assert!(!mailer.can_send(&shop()));
    mailer.send(&shop(), "ann@shop.example", reset());
    assert!(mailer.settled(PATIENCE).await);
    assert_eq!(mailer.counts().failed, 1);
    let secret = [("host", "mail.example")].map(|(k, v)| (k.to_owned(), zeroize::Zeroizing::new(v.to_owned())));
    let smtp = Arc::new(SmtpSettings::from_secret(&secret.into()).unwrap());
    assert!(mailer.can_send(&Sending { smtp: Some(smtp), ..shop() }));
}

/// A server that says what an SMTP server says, and keeps what it hears.
async fn smtp_server(refuses: bool) -> (u16, tokio::task::JoinHandle<String>) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut heard = String::new();
        write.write_all(b"220 mail.example\r\n").await.unwrap();
        let mut in_data = false;
        while let Ok(Some(line)) = lines.next_line().await {
            heard.push_str(&line);
            heard.push('\n');
            let answer = match line.split(' ').next().unwrap_or_default() {
                "." if in_data => {
                    in_data = false;
                    "250 taken\r\n"
                }
                _ if in_data => continue,
                "EHLO" => "250-mail.example\r\n250 AUTH PLAIN\r\n",
                "RCPT" if refuses => "550 nobody here is called ann@shop.example\r\n",
                "AUTH" => "235 welcome\r\n",
                "DATA" => {
                    in_data = true;
                    "354 go on\r\n"
                }
                "QUIT" => "221 bye\r\n",
                _ => "250 ok\r\n",
            };
            if write.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
        }
        heard
    });
    (port, serving)
}

fn plain(port: u16) -> SmtpSettings {
    let login = Some(("shop".to_owned(), zeroize::Zeroizing::new("s3cret".to_owned())));
    SmtpSettings { host: "127.0.0.1".into(), port, login, tls: SmtpTls::Opportunistic, from: Some("a@shop.example".into()) }
}

#[tokio::test]
async fn a_server_gets_the_mail_under_the_name_that_is_set() {
    let (port, serving) = smtp_server(false).await;
    let mailer = Mailer::new(Delivery::Smtp(Arc::new(plain(port))), Reach::default());
    mailer.send(&shop(), "ann@shop.example", reset());
    assert!(mailer.settled(PATIENCE).await);
    assert_eq!(mailer.counts().sent, 1);
    let heard = serving.await.unwrap();
    for line in ["AUTH PLAIN", "MAIL FROM:<a@shop.example>", "RCPT TO:<ann@shop.example>", "Subject: Reset your password"] {
        assert!(heard.contains(line), "{line} in {heard}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_by_its_number_alone() {
    let (port, _serving) = smtp_server(true).await;
    let job = Job { to: "ann@shop.example".into(), sending: shop(), notice: reset() };
    let ways = Ways { delivery: Delivery::Smtp(Arc::new(plain(port))), reach: Reach::default() };
    let route = Route { post: Arc::new(ways), pauses: SOON };
    let error = carry(&route, job, None).await.unwrap_err();
    assert_eq!(error, SendError::Refused("550".into()));
    assert!(!error.to_string().contains("ann"));
}

#[tokio::test]
async fn nothing_is_said_in_the_clear_to_a_server_that_must_be_spoken_tls_with() {
    let (port, serving) = smtp_server(false).await;
    let settings = SmtpSettings { tls: SmtpTls::Required, ..plain(port) };
    let job = Job { to: "ann@shop.example".into(), sending: shop(), notice: reset() };
    let mail = prepared(job, settings.sender()).unwrap();
    settings.send(&mail.message, None).await.unwrap_err();
    let heard = serving.await.unwrap();
    assert!(!heard.contains("AUTH") && !heard.contains("ann@"), "{heard}");
}

#[tokio::test]
async fn a_policy_s_own_server_is_nowhere_inside_unless_that_is_allowed_and_never_where_clouds_serve_credentials() {
    const PRIVATE: &str = "--smtp-allow-private";
    const METADATA: &str = "never connected to";
    let sent = async |host: &str, port: u16, allow_private: bool| {
        let sending = Sending { smtp: Some(Arc::new(SmtpSettings { host: host.to_owned(), ..plain(port) })), ..shop() };
        let ways = Ways { delivery: Delivery::Disabled, reach: Reach { allow_private } };
        let route = Route { post: Arc::new(ways), pauses: SOON };
        let job = Job { to: "ann@shop.example".into(), sending, notice: reset() };
        carry(&route, job, None).await
    };
    let (port, serving) = smtp_server(false).await;
    for (host, allow_private, said) in [
        ("127.0.0.1", false, PRIVATE),
        ("localhost", false, PRIVATE),
        ("0x7f.1", false, PRIVATE),
        ("::1", false, PRIVATE),
        ("::ffff:10.0.0.1", false, PRIVATE),
        ("192.168.0.1", false, PRIVATE),
        ("100.64.0.1", false, PRIVATE),
        ("169.254.169.254", false, METADATA),
        ("169.254.169.254", true, METADATA),
        ("fd00:ec2::254", true, METADATA),
    ] {
        let error = sent(host, port, allow_private).await.unwrap_err();
        assert!(matches!(error, SendError::Forbidden(_)) && !error.is_passing(), "{host}: {error:?}");
        assert!(error.to_string().contains(said), "{host}: {error}");
    }
    assert_eq!(sent("localhost", port, true).await, Ok(()));
    let heard = serving.await.unwrap();
    assert_eq!(heard.matches("EHLO").count(), 1, "nobody else has connected: {heard}");
}
