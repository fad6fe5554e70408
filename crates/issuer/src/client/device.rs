//! A `User-Agent` in a few words, so that people recognise their own sessions in a list.

/// What tells a program, the more particular first: most agents name those that they are like, too.
const PROGRAMS: [(&str, &str); 30] = [
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("YaBrowser/", "Yandex Browser"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("DuckDuckGo/", "DuckDuckGo"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("HeadlessChrome/", "Chrome"),
    ("Electron/", "Electron"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
    ("Trident/", "Internet Explorer"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("HTTPie/", "HTTPie"),
    ("PostmanRuntime/", "Postman"),
    ("insomnia/", "Insomnia"),
    ("okhttp/", "OkHttp"),
    ("Dart/", "Dart"),
    ("CFNetwork/", "CFNetwork"),
    ("Go-http-client/", "Go"),
    ("python-", "Python"),
    ("Python/", "Python"),
    ("axios/", "axios"),
    ("node", "Node.js"),
    ("Java/", "Java"),
];

/// What tells a system, the more particular first.
const SYSTEMS: [(&str, &str); 11] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Mac OS X", "macOS"),
    ("Darwin", "macOS"),
    ("FreeBSD", "FreeBSD"),
    ("OpenBSD", "OpenBSD"),
    ("Linux", "Linux"),
];

/// What is said of an agent that tells nothing.
const UNKNOWN: &str = "Unknown device";

/// The agent in a few words of ours: nothing of its own text is in them.
pub(super) fn label(agent: &str) -> String {
    let named = |table: &[(&str, &'static str)]| table.iter().find(|(sign, _)| agent.contains(sign)).map(|(_, name)| *name);
    match (named(&PROGRAMS), named(&SYSTEMS)) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_in_a_few_words() {
        const LIKE_SAFARI: &str = "(KHTML, like Gecko)";
        for (agent, expected) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            ("Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0", "Firefox on Android"),
            (
                &format!(
                    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 {LIKE_SAFARI} Chrome/138.0 Safari/537.36"
                ),
                "Chrome on Windows",
            ),
            (
                &format!(
                    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 {LIKE_SAFARI} Chrome/138.0 Safari/537.36 Edg/138.0"
                ),
                "Edge on Windows",
            ),
            (
                &format!(
                    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605.1 {LIKE_SAFARI} Version/18.5 Safari/605.1"
                ),
                "Safari on macOS",
            ),
            (
                &format!(
                    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1 {LIKE_SAFARI} CriOS/138 Mobile"
                ),
                "Chrome on iPhone",
            ),
            ("curl/8.5.0", "curl"),
            ("python-requests/2.32.3", "Python"),
            ("Go-http-client/1.1", "Go"),
            ("node", "Node.js"),
            ("Something (FreeBSD)", "FreeBSD"),
            ("", UNKNOWN),
            ("<script>", UNKNOWN),
        ] {
            assert_eq!(label(agent), expected, "{agent}");
        }
    }
}
