//! The query of a URL: names with short values.

/// The parts of a query. If a name occurs twice, the first value counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), decode(value)?))
        };
        Self(query.unwrap_or_default().split('&').filter_map(pair).collect())
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok().filter(|number: &f64| !number.is_nan())
    }
}

/// Decodes the result of `encodeURIComponent`; none if the result is not valid UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_apart() {
        let query = Query::parse(Some("run=a%7E2&from=-1.5e3&x&to=nan&run=b&bad=%zz&cut=%4&e=%ff"));
        assert_eq!(query.text("run").as_deref(), Some("a~2"));
        assert_eq!((query.number("from"), query.number("to")), (Some(-1500.0), None));
        for name in ["x", "bad", "cut", "e", "none"] {
            assert_eq!(query.text(name), None, "{name}");
        }
        assert_eq!(Query::parse(None).text("run"), None);
    }
}
