//! `Max-Forwards` (RFC 9110 §7.6.2): how far an OPTIONS or a TRACE may go. Others may carry the field, and it means nothing there.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::{body::ResponseBody, error::Reason, framing::number};

/// Counts one step. `Some`: the request goes no further than here, and this is the answer.
///
/// # Errors
/// A TRACE that ends here is not answered by what came: that would show what servers in front have added to it.
pub fn step<B>(request: &mut Request<B>) -> Result<Option<Response<ResponseBody>>, Reason> {
    let method = request.method();
    if method != Method::OPTIONS && method != Method::TRACE {
        return Ok(None);
    }
    let mut values = request.headers().get_all(header::MAX_FORWARDS).iter();
    // Twice, or no number, it says nothing.
    let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
    match number(value.as_bytes()) {
        None => Ok(None),
        Some(0) if method == Method::TRACE => Err(Reason::MethodNotSupported),
        Some(0) => {
            let mut answer = Response::new(ResponseBody::empty());
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer.headers_mut().insert(header::SERVER, HeaderValue::from_static("trimtab"));
            Ok(Some(answer))
        }
        Some(left) => {
            request.headers_mut().insert(header::MAX_FORWARDS, HeaderValue::from(left - 1));
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of it, or the status of the answer.
    fn check(method: &str, values: &[&str]) -> Result<Vec<String>, u16> {
        let mut builder = Request::builder().method(method);
        for value in values {
            builder = builder.header("max-forwards", *value);
        }
        let mut request = builder.body(()).unwrap();
        match step(&mut request) {
            Ok(Some(answer)) => Err(answer.status().as_u16()),
            Err(reason) => Err(reason.status().as_u16()),
            Ok(None) => Ok(request
                .headers()
                .get_all("max-forwards")
                .iter()
                .map(|value| value.to_str().unwrap().to_owned())
                .collect()),
        }
    }

    #[test]
    fn it_counts_down_to_an_answer_where_it_has_a_meaning() {
        assert_eq!(check("OPTIONS", &["2"]), Ok(vec!["1".to_owned()]));
        assert_eq!(check("TRACE", &["10"]), Ok(vec!["9".to_owned()]));
        assert_eq!(check("OPTIONS", &["0"]), Err(204));
        assert_eq!(check("TRACE", &["0"]), Err(501));
        assert_eq!(check("GET", &["0"]), Ok(vec!["0".to_owned()]));
        assert_eq!(check("OPTIONS", &[]), Ok(vec![]));
        for odd in ["", "-1", "+1", "x", "99999999999999999999"] {
            assert_eq!(check("OPTIONS", &[odd]), Ok(vec![odd.to_owned()]));
        }
        assert_eq!(check("OPTIONS", &["0", "1"]).unwrap().len(), 2);
    }
}
