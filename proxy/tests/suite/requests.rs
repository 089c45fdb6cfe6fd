//! Requests and answers as they pass through the proxy.


use crate::harness::{Backend, Setup};

#[tokio::test]
async fn a_request_is_forwarded_and_its_answer_comes_back() {
    let backend = Backend::saying("hello").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let answer = proxy.get("/path?query").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    let seen = backend.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.uri, "/path?query");
    assert_eq!(seen.headers["host"], "test");
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
}
