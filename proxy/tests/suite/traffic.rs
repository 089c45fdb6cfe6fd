//! Retries, rate limits, who may ask, and injected faults, on both paths.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::Semaphore;
use trimtab_proxy::{api::v1, clock};

use crate::harness::{Backend, Proxy, RawBackend, Setup, eventually, text};

/// Answers with this status.
async fn answering(status: StatusCode) -> Backend {
    Backend::new(move |_| async move {
        let mut answer = text(status.as_str().to_owned());
        *answer.status_mut() = status;
        answer
    })
    .await
}

fn retry(change: impl FnOnce(&mut v1::Retry)) -> impl FnOnce(&mut v1::Backend) {
    move |backend| {
        let mut retry = v1::Retry { num_retries: Some(3), ..Default::default() };
        change(&mut retry);
        backend.retry = Some(retry);
        backend.outlier_detection = Some(v1::OutlierDetection { disabled: true, ..Default::default() });
    }
}

fn on_503(retry: &mut v1::Retry) {
    retry.statuses = vec![503];
}

/// Statuses of some requests, one after the other on one connection.
async fn statuses(proxy: &Proxy, request: &str, count: usize) -> Vec<u16> {
    let mut raw = proxy.raw().await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        raw.write(request).await;
        statuses.push(raw.answer().await.status);
    }
    statuses
}

const GET: &str = "GET / HTTP/1.1\r\nhost: t\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi";
const PUT: &str = "PUT / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi";

#[tokio::test]
async fn a_503_is_tried_elsewhere_if_the_request_can_be_repeated() {
    for fast_path in [true, false] {
        let (busy, good) = (answering(StatusCode::SERVICE_UNAVAILABLE).await, answering(StatusCode::OK).await);
        let setup = Setup::to(&[busy.address, good.address]).fast_path(fast_path).backend(retry(on_503));
        let proxy = setup.start().await;
        assert_eq!(statuses(&proxy, GET, 20).await, [200; 20]);
        assert_eq!(good.requests(), 20);
        assert!(busy.requests() >= 8, "it was asked first half of the time");
        for request in [POST, PUT] {
            let passed_on = statuses(&proxy, request, 10).await;
            assert_eq!(passed_on.iter().filter(|status| **status == 503).count(), 5, "{request:?}: {passed_on:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_passed_on_where_no_other_endpoint_is_left_and_without_being_asked_for() {
    for fast_path in [true, false] {
        let (one, two) =
            (answering(StatusCode::SERVICE_UNAVAILABLE).await, answering(StatusCode::SERVICE_UNAVAILABLE).await);
        let setup = Setup::to(&[one.address, two.address]).fast_path(fast_path).backend(retry(on_503));
        let proxy = setup.start().await;
        let answer = proxy.get("/").await;
        assert_eq!((answer.status, answer.body.as_str(), answer.reason()), (503, "503", None), "the endpoint's own");
        assert_eq!(one.requests() + two.requests(), 2);
        // As by default.
        let good = answering(StatusCode::OK).await;
        let setup = Setup::to(&[one.address, good.address]).fast_path(fast_path).backend(retry(|_| {}));
        let statuses = statuses(&setup.start().await, GET, 10).await;
        assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 5, "{statuses:?}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_is_tried_elsewhere_if_the_policy_says_so() {
    for fast_path in [true, false] {
        let rude = RawBackend::new(|stream, _| async move {
            let mut raw = crate::harness::Raw::over(stream);
            raw.head_of_request().await;
        })
        .await;
        let good = answering(StatusCode::OK).await;
        let start = async |reset: bool| {
            let setup = Setup::to(&[rude.address, good.address]).fast_path(fast_path);
            setup.backend(retry(|retry| retry.reset = reset)).start().await
        };
        let proxy = start(true).await;
        assert_eq!(statuses(&proxy, GET, 10).await, [200; 10]);
        let failed = statuses(&proxy, PUT, 10).await.into_iter().filter(|status| *status == 502).count();
        assert_eq!(failed, 5, "what has a body is not sent twice");
        let failed = statuses(&start(false).await, GET, 10).await.into_iter().filter(|status| *status == 502).count();
        assert_eq!(failed, 5);
    }
}

#[tokio::test]
async fn a_request_that_no_endpoint_answered_though_several_were_tried_is_answered_504() {
    // Bound and not listening: nobody else gets these ports meanwhile.
    let bound: Vec<socket2::Socket> = (0..5)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            socket
        })
        .collect();
    let closed: Vec<_> = bound.iter().map(|socket| socket.local_addr().unwrap().as_socket().unwrap()).collect();
    for fast_path in [true, false] {
        let start = async |endpoints: &[std::net::SocketAddr], retries: u32| {
            let setup = Setup::to(endpoints).fast_path(fast_path);
            setup.backend(retry(|retry| (retry.num_retries, retry.reset) = (Some(retries), true))).start().await
        };
        let said = |answer: crate::harness::Answer| (answer.status, answer.reason().map(str::to_owned));
        let exhausted = (504, Some("retries_exhausted".to_owned()));
        // As many as may be, and all there are; whatever the method, as nothing was sent.
        for (endpoints, retries) in [(&closed[..], 3), (&closed[..2], 3)] {
            let proxy = start(endpoints, retries).await;
            assert_eq!(said(proxy.get("/").await), exhausted);
            assert_eq!(said(proxy.send(POST).await), exhausted);
        }
        let rude = || {
            RawBackend::new(|stream, _| async move { drop(crate::harness::Raw::over(stream).head_of_request().await) })
        };
        let (one, two) = (rude().await, rude().await);
        let proxy = start(&[one.address, two.address], 3).await;
        assert_eq!(said(proxy.get("/").await), exhausted);
        // One try is no more than that, and what may not be repeated was not tried until all was used up.
        let reset = (502, Some("upstream_reset".to_owned()));
        assert_eq!(said(proxy.send(POST).await), reset);
        assert_eq!(said(start(&[one.address], 3).await.get("/").await), reset);
        assert_eq!(said(start(&closed, 0).await.get("/").await), (502, Some("connect_failed".to_owned())));
        // The last one answered: that is passed on.
        let busy = answering(StatusCode::SERVICE_UNAVAILABLE).await;
        let proxy = start(&[closed[0], busy.address], 3).await;
        for _ in 0..4 {
            let answer = proxy.get("/").await;
            assert_eq!((answer.status, answer.body.as_str(), answer.reason()), (503, "503", None));
        }
    }
}

#[tokio::test]
async fn a_request_is_not_repeated_once_a_byte_of_its_answer_has_come() {
    for fast_path in [true, false] {
        let asked: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
        let counted = asked.clone();
        // The first request on a connection is answered, the second begun to be.
        let backend = RawBackend::new(move |stream, _| {
            let asked = counted.clone();
            async move {
                let mut raw = crate::harness::Raw::over(stream);
                for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\ncontent-le"] {
                    raw.head_of_request().await;
                    asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    raw.write(answer).await;
                }
            }
        })
        .await;
        let good = answering(StatusCode::OK).await;
        let mut setup = Setup::to(&[backend.address, good.address]).fast_path(fast_path);
        setup.workers = 1;
        let proxy = setup.backend(retry(|retry| retry.reset = true)).start().await;
        let statuses = statuses(&proxy, GET, 4).await;
        assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 1, "{statuses:?}");
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 2, "fast path: {fast_path}");
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    for fast_path in [true, false] {
        let stuck = Backend::new(|_| async { std::future::pending().await }).await;
        let good = answering(StatusCode::OK).await;
        let setup = Setup::to(&[stuck.address, good.address]).fast_path(fast_path);
        let proxy = setup.backend(retry(|retry| retry.per_try_timeout_ms = Some(100))).start().await;
        assert_eq!(statuses(&proxy, GET, 4).await, [200; 4]);
        assert!(stuck.requests() >= 1);
        let posted = statuses(&proxy, POST, 1).await[0].min(statuses(&proxy, POST, 1).await[0]);
        assert!(matches!(posted, 200 | 504), "{posted}");
        let alone = Setup::to(&[stuck.address]).fast_path(fast_path);
        let proxy = alone.backend(retry(|retry| retry.per_try_timeout_ms = Some(100))).start().await;
        let answer = proxy.get("/").await;
        assert_eq!((answer.status, answer.reason()), (504, Some("upstream_timeout")));
    }
}

#[tokio::test]
async fn retries_do_not_multiply_an_overload() {
    // Everybody waits until all are there, and is then told 503.
    let gate = Arc::new(Semaphore::new(0));
    let busy = async || {
        let gate = gate.clone();
        Backend::new(move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                let mut answer = text("");
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                answer
            }
        })
        .await
    };
    let (one, two) = (busy().await, busy().await);
    let mut setup = Setup::to(&[one.address, two.address]).backend(retry(on_503));
    setup.workers = 1;
    let proxy = setup.start().await;
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let address = proxy.address();
            tokio::spawn(async move {
                let mut raw = crate::harness::Raw::connect(address).await;
                raw.write(GET).await;
                raw.answer().await.status
            })
        })
        .collect();
    eventually("all are inside", || async { one.inside() + two.inside() == 40 }).await;
    gate.add_permits(1_000);
    for client in clients {
        assert_eq!(client.await.unwrap(), 503);
    }
    let retries = one.requests() + two.requests() - 40;
    assert!((3..=30).contains(&retries), "{retries} retries of 40 requests");
}

#[tokio::test]
async fn a_rate_holds_over_all_workers_and_a_client_is_told_when_to_come_back() {
    let backend = answering(StatusCode::OK).await;
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
            backend.rate_limits =
                vec![v1::RateLimit { requests: 10, per_ms: 3_600_000, per_client: fast_path, ..Default::default() }];
        });
        let proxy = setup.start().await;
        let mut passed = 0;
        for _ in 0..6 {
            passed += statuses(&proxy, GET, 5).await.into_iter().filter(|status| *status == 200).count();
        }
        assert_eq!(passed, 10);
        let answer = proxy.get("/").await;
        assert_eq!((answer.status, answer.reason()), (429, Some("rate_limited")));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((300..=360).contains(&wait), "{wait}");
    }
}

#[tokio::test]
async fn clients_that_may_not_ask_are_refused() {
    let backend = answering(StatusCode::OK).await;
    let rule = |allow: bool, network: &str| v1::AccessRule { allow, networks: vec![network.into()] };
    for (rules, deny_others, expected) in [
        (vec![rule(true, "127.0.0.0/8")], true, 200),
        (vec![rule(true, "10.0.0.0/8")], true, 403),
        (vec![rule(false, "127.0.0.1"), rule(true, "127.0.0.0/8")], false, 403),
        (vec![], false, 200),
    ] {
        let access = v1::Access { rules, deny_others };
        let proxy =
            Setup::to(&[backend.address]).backend(|backend| backend.access = Some(access.clone())).start().await;
        assert_eq!(statuses(&proxy, GET, 2).await, [expected; 2], "{access:?}");
    }
}

#[tokio::test]
async fn faults_are_injected_into_a_share_of_the_requests() {
    let backend = answering(StatusCode::OK).await;
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
            backend.faults = Some(v1::Faults {
                abort: Some(v1::FaultAbort { status: 418, percent: 50.0 }),
                delay: Some(v1::FaultDelay { delay_ms: 20, percent: 100.0 }),
            });
        });
        let proxy = setup.start().await;
        let began = clock::now();
        let statuses = statuses(&proxy, GET, 40).await;
        let aborted = statuses.iter().filter(|status| **status == 418).count();
        assert!((6..=34).contains(&aborted), "{aborted} of 40");
        let passed = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(passed + aborted, 40);
        assert!(clock::now().since(began) >= Duration::from_millis(20) * passed as u32);
    }
}

#[tokio::test]
async fn requests_with_the_same_key_go_to_the_same_endpoint_and_another_version_elsewhere() {
    let (mut backends, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let backend = answering(StatusCode::OK).await;
        addresses.push(backend.address);
        backends.push(backend);
    }
    for algorithm in [v1::Algorithm::RingHash, v1::Algorithm::Maglev] {
        let mut homes: Vec<Vec<usize>> = Vec::new();
        // Two paths, which must agree, and another version, which must not.
        for (fast_path, version) in [(true, ""), (false, ""), (true, "canary")] {
            let setup = Setup::to(&addresses).fast_path(fast_path).backend(|backend| {
                backend.algorithm = algorithm.into();
                let version = version.to_owned();
                backend.hash = Some(v1::ConsistentHash { cookie: "user".into(), version, ..Default::default() });
            });
            let proxy = setup.start().await;
            let mut of_users = Vec::new();
            for user in 0..20 {
                let request = format!("GET / HTTP/1.1\r\nhost: t\r\ncookie: a=b; user={user}; c=d\r\n\r\n");
                let before: Vec<usize> = backends.iter().map(Backend::requests).collect();
                assert_eq!(statuses(&proxy, &request, 3).await, [200; 3]);
                let got: Vec<usize> = backends.iter().zip(before).map(|(b, before)| b.requests() - before).collect();
                of_users.push(got.iter().position(|count| *count == 3).unwrap_or_else(|| panic!("{user}: {got:?}")));
            }
            homes.push(of_users);
        }
        assert_eq!(homes[0], homes[1], "{algorithm:?}");
        assert_ne!(homes[0], homes[2], "{algorithm:?}");
        let used: std::collections::BTreeSet<_> = homes[0].iter().collect();
        assert!(used.len() >= 3, "{algorithm:?} {homes:?}");
    }
}

#[tokio::test]
async fn a_rate_limit_by_header_counts_each_value_by_itself() {
    let backend = answering(StatusCode::OK).await;
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
            let headers = vec![v1::RateLimitHeader { name: "x-user".to_owned(), value: None }];
            backend.rate_limits = vec![v1::RateLimit { requests: 3, per_ms: 3_600_000, headers, ..Default::default() }];
        });
        let proxy = setup.start().await;
        for user in ["ann", "eve"] {
            let request = format!("GET / HTTP/1.1\r\nhost: t\r\nx-user: {user}\r\n\r\n");
            assert_eq!(statuses(&proxy, &request, 4).await, [200, 200, 200, 429], "{user}");
        }
        assert_eq!(statuses(&proxy, GET, 4).await, [200; 4]);
    }
}

#[tokio::test]
async fn a_body_that_is_larger_than_the_policy_allows_is_refused_with_and_without_a_length() {
    let backend = Backend::new(|request| async move {
        use http_body_util::BodyExt;
        let _ = request.into_body().collect().await;
        text("x")
    })
    .await;
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path);
        let proxy = setup.backend(|backend| backend.max_request_body_bytes = Some(10)).start().await;
        let with_length =
            |size: usize| format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {size}\r\n\r\n{}", "x".repeat(size));
        assert_eq!(proxy.send(&with_length(10)).await.status, 200);
        let answer = proxy.send(&with_length(11)).await;
        assert_eq!((answer.status, answer.reason()), (413, Some("body_too_large")));
        let chunked = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(proxy.send(&format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n")).await.status, 200);
        assert_eq!(proxy.send(&format!("{chunked}6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n")).await.status, 413);
    }
}

/// What the pod with this name answers: its name.
async fn named(name: &'static str) -> Backend {
    Backend::new(move |_| async move { text(name) }).await
}

#[tokio::test]
async fn a_client_goes_back_to_the_endpoint_that_answered_it_while_it_is_there() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    let all = [a.address, b.address, c.address];
    for (fast_path, by_cookie) in [(true, true), (false, true), (true, false), (false, false)] {
        let session = v1::SessionPersistence {
            cookie: if by_cookie { "sid".to_owned() } else { String::new() },
            header: if by_cookie { String::new() } else { "x-sid".to_owned() },
            keys: vec![vec![7; 32]],
            ..Default::default()
        };
        let setup = Setup::to(&all).fast_path(fast_path).backend(|backend| backend.session = Some(session.clone()));
        let proxy = setup.start().await;
        let ask = async |token: &str| {
            let header = if by_cookie { format!("cookie: x=y; sid={token}") } else { format!("x-sid: {token}") };
            let answer =
                proxy.send(&format!("GET / HTTP/1.1\r\nhost: t\r\n{header}\r\nconnection: close\r\n\r\n")).await;
            let told = answer.header(if by_cookie { "set-cookie" } else { "x-sid" }).map(|told| {
                let value = told.strip_prefix("sid=").unwrap_or(told);
                value.split(';').next().unwrap().to_owned()
            });
            (answer.body, told)
        };
        let (first, token) = ask("nonsense").await;
        let token = token.expect("a session begins");
        assert!(!token.contains("127"), "{token}");
        for _ in 0..6 {
            assert_eq!(ask(&token).await, (first.clone(), None), "it is told once");
        }
        // Without its endpoint it goes on elsewhere, and stays there.
        let mut smaller = crate::harness::proxy::backend(crate::harness::proxy::BACKEND, &all);
        smaller.session = Some(session);
        smaller.generation += 1;
        let gone = smaller.endpoints.iter().position(|endpoint| {
            let pod = [&a, &b, &c].into_iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first).unwrap().0;
            endpoint.port == u32::from(pod.address.port())
        });
        smaller.endpoints.remove(gone.unwrap());
        proxy.controller.set_backend(&smaller);
        eventually("another endpoint answers", async || ask(&token).await.0 != first).await;
        let (second, token) = ask(&token).await;
        let token = token.expect("a session begins");
        for _ in 0..4 {
            assert_eq!(ask(&token).await, (second.clone(), None));
        }
    }
}

#[tokio::test]
async fn a_token_that_was_not_signed_for_this_backend_is_none_and_keys_are_replaced_under_those_that_are() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    let all = [a.address, b.address, c.address];
    let signed_with = |keys: &[u8]| v1::SessionPersistence {
        cookie: "sid".to_owned(),
        keys: keys.iter().map(|key| vec![*key; 32]).collect(),
        ..Default::default()
    };
    for fast_path in [true, false] {
        let mut setup = Setup::to(&all).fast_path(fast_path).with_admin();
        setup.workers = 1;
        let proxy = setup.backend(|backend| backend.session = Some(signed_with(&[1]))).start().await;
        let ask = async |token: &str| {
            let request = format!("GET / HTTP/1.1\r\nhost: t\r\ncookie: sid={token}\r\nconnection: close\r\n\r\n");
            let answer = proxy.send(&request).await;
            let told =
                answer.header("set-cookie").map(|told| told["sid=".len()..].split(';').next().unwrap().to_owned());
            (answer.body, told)
        };
        let refused = async || {
            let mut raw = crate::harness::Raw::connect(proxy.admin_address()).await;
            raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
            let name = "trimtab_proxy_session_tokens_refused_total ";
            raw.answer().await.body.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u32>().unwrap()
        };
        let (first, token) = ask("").await;
        let token = token.expect("a session begins");
        assert_eq!(ask(&token).await, (first.clone(), None));
        let before = refused().await;
        // One digit of it is another, in the name of the endpoint, in the times, in the signature; and one that was good elsewhere.
        let digit = |at: usize| {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            format!("{}{other}{}", &token[..at], &token[at + 1..])
        };
        let mut setup = Setup::to(&all).backend(|backend| backend.session = Some(signed_with(&[1])));
        setup.backends[0].name = "test/other:80".to_owned();
        setup.route.rules = vec![crate::harness::proxy::rule("test/other:80")];
        let elsewhere = setup.start().await;
        let foreign = elsewhere.get("/").await.header("set-cookie").unwrap()["sid=".len()..]
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        for forged in [digit(3), digit(20), digit(30), digit(60), foreign] {
            assert_ne!(forged, token);
            let mut seen = Vec::new();
            for _ in 0..3 {
                let (endpoint, told) = ask(&forged).await;
                assert!(told.is_some_and(|told| told != forged), "{forged} begins a session");
                seen.push(endpoint);
            }
            seen.sort();
            assert_eq!(seen, ["a", "b", "c"], "the algorithm chooses");
        }
        assert_eq!(refused().await - before, 15);

        // Another key signs, and the old one is believed: clients are given a new token for the same endpoint.
        let mut other = crate::harness::proxy::backend(crate::harness::proxy::BACKEND, &all);
        let mut sign_with = |keys: &[u8]| {
            other.session = Some(signed_with(keys));
            proxy.controller.set_backend(&other);
        };
        sign_with(&[2, 1]);
        eventually("another key signs", async || ask(&token).await.1.is_some()).await;
        let (endpoint, renewed) = ask(&token).await;
        let renewed = renewed.expect("the old key signs no more");
        assert_eq!(endpoint, first);
        assert_eq!(ask(&renewed).await, (first.clone(), None));
        sign_with(&[2]);
        let before = refused().await;
        eventually("the old key is believed no more", async || {
            ask(&token).await;
            refused().await > before
        })
        .await;
        assert_eq!(ask(&renewed).await, (first.clone(), None));
    }
}

#[tokio::test]
async fn a_client_behind_others_is_known_by_what_those_who_are_trusted_say() {
    let backend = answering(StatusCode::OK).await;
    for fast_path in [true, false] {
        let mut setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
            let rule = v1::AccessRule { allow: false, networks: vec!["192.0.2.0/24".to_owned()] };
            backend.access = Some(v1::Access { rules: vec![rule], deny_others: false });
        });
        setup.listener.client_address = Some(v1::ClientAddress { trusted_hops: 1, ..Default::default() });
        let proxy = setup.start().await;
        let status = async |forwarded: &str| {
            let request =
                format!("GET / HTTP/1.1\r\nhost: t\r\nx-forwarded-for: {forwarded}\r\nconnection: close\r\n\r\n");
            proxy.send(&request).await.status
        };
        assert_eq!(status("203.0.113.1, 192.0.2.7").await, 403);
        assert_eq!(status("192.0.2.7, 203.0.113.1").await, 200, "what the client wrote is not believed");
    }
}

#[tokio::test]
async fn a_connection_that_is_passed_on_says_whose_it_is() {
    let backend = answering(StatusCode::OK).await;
    for fast_path in [true, false] {
        let start = async |from: &str| {
            let mut setup = Setup::to(&[backend.address]).fast_path(fast_path);
            let proxy_protocol_from = vec![from.to_owned()];
            setup.listener.client_address = Some(v1::ClientAddress { proxy_protocol_from, ..Default::default() });
            setup.start().await
        };
        let proxy = start("127.0.0.0/8").await;
        let answer = proxy.send(&format!("PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n{GET}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(backend.last_headers()["x-forwarded-for"], "192.0.2.7");
        let mut raw = proxy.raw().await;
        raw.write(GET).await;
        raw.is_closed().await;
        // From elsewhere it is a request like any other, and no good one.
        let proxy = start("10.0.0.0/8").await;
        assert_eq!(proxy.send(GET).await.status, 200);
        let answer = proxy.send(&format!("PROXY TCP4 192.0.2.7 10.0.0.1 1234 80\r\n{GET}")).await;
        assert_eq!(answer.status, 400);
    }
}
