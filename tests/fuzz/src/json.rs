//! JSON as RFC 8259 writes it, read with all bytes in hand into a tree that forgets nothing: numbers
//! as they are spelled, members in their order, also twice.
//!
//! The oracle of every target that reads JSON. It is compared with serde_json at each use, so that
//! the two cannot drift apart.

/// A value, with the text that it was read from.
#[derive(Clone, Debug)]
pub struct Json<'a> {
    /// Its text, without white space around it.
    pub text: &'a str,
    /// What it is.
    pub value: Value<'a>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// As it is spelled.
    Number(&'a str),
    /// `None` where half of a surrogate pair stands, which no text can hold.
    Text(Option<String>),
    List(Vec<Json<'a>>),
    Object(Vec<(Option<String>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads exactly one value.
    #[must_use]
    pub fn read(text: &'a str) -> Option<Self> {
        if is_too_deep(text) {
            return None;
        }
        let mut reader = Reader { text, at: 0 };
        let value = reader.whole();
        let is_json = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
        assert_eq!(value.is_some(), is_json, "two readers differ: {text:?}");
        value
    }

    /// How deep its arrays and objects are nested.
    #[must_use]
    pub fn depth(&self) -> usize {
        match &self.value {
            Value::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Object(members) => {
                1 + members
                    .iter()
                    .map(|(_, item)| item.depth())
                    .max()
                    .unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// The value without the white space between its tokens.
    #[must_use]
    pub fn compact(&self) -> String {
        let join = |parts: Vec<String>| parts.join(",");
        match &self.value {
            Value::List(items) => format!("[{}]", join(items.iter().map(Self::compact).collect())),
            Value::Object(members) => {
                // The text of a key ends at the last quote before the member's value.
                let mut parts = Vec::new();
                let mut at = self.text.as_ptr() as usize + 1;
                for (_, item) in members {
                    let start = item.text.as_ptr() as usize;
                    let base = self.text.as_ptr() as usize;
                    let before = &self.text[at - base..start - base];
                    let key =
                        &before[before.find('"').unwrap_or(0)..=before.rfind('"').unwrap_or(0)];
                    parts.push(format!("{key}:{}", item.compact()));
                    at = start + item.text.len();
                }
                format!("{{{}}}", join(parts))
            }
            _ => self.text.to_owned(),
        }
    }

    /// Its members, if it is an object in which no key is half a surrogate pair and none of `known`
    /// is given twice.
    #[must_use]
    pub fn members(&self, known: &[&str]) -> Option<Members<'_, 'a>> {
        let Value::Object(members) = &self.value else {
            return None;
        };
        let mut seen = Vec::new();
        for (key, _) in members {
            let key = key.as_deref()?;
            if known.contains(&key) {
                if seen.contains(&key) {
                    return None;
                }
                seen.push(key);
            }
        }
        Some(Members(members))
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    /// The number, if it is a whole one in range and spelled as one.
    #[must_use]
    pub fn as_whole<T: std::str::FromStr>(&self) -> Option<T> {
        match self.value {
            // The sign makes it a fraction to serde_json.
            Value::Number("-0") => None,
            Value::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The items, if it is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        matches!(self.value, Value::Object(_))
    }

    /// Whether every part of it can be evaluated: no half of a surrogate pair, no number that is too
    /// large, nothing nested deeper than serde_json goes.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        fn parts_are_sound(json: &Json<'_>) -> bool {
            match &json.value {
                Value::Number(digits) => digits.parse::<f64>().is_ok_and(f64::is_finite),
                Value::Text(text) => text.is_some(),
                Value::List(items) => items.iter().all(parts_are_sound),
                Value::Object(members) => members
                    .iter()
                    .all(|(key, item)| key.is_some() && parts_are_sound(item)),
                Value::Null | Value::Bool(_) => true,
            }
        }
        self.depth() < 128 && parts_are_sound(self)
    }
}

/// The members of an object.
#[derive(Clone, Copy, Debug)]
pub struct Members<'m, 'a>(pub &'m [(Option<String>, Json<'a>)]);

impl<'m, 'a> Members<'m, 'a> {
    /// The value of a member, also `null`.
    #[must_use]
    pub fn any(&self, name: &str) -> Option<&'m Json<'a>> {
        let member = |(key, _): &&(Option<String>, Json<'a>)| key.as_deref() == Some(name);
        self.0.iter().find(member).map(|(_, value)| value)
    }

    /// The value of a member that is not `null`.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&'m Json<'a>> {
        self.any(name).filter(|value| !value.is_null())
    }

    /// A text that may be absent or `null`; the outer `None` is for anything else.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Option<Box<str>>> {
        match self.given(name) {
            None => Some(None),
            Some(value) => value.as_text().map(|text| Some(text.into())),
        }
    }

    /// A number that may be absent, but not `null`.
    #[must_use]
    pub fn whole_or_zero<T: std::str::FromStr + Default>(&self, name: &str) -> Option<T> {
        self.any(name).map_or(Some(T::default()), Json::as_whole)
    }

    /// A boolean that may be absent, but not `null`.
    #[must_use]
    pub fn bool_or_false(&self, name: &str) -> Option<bool> {
        self.any(name).map_or(Some(false), Json::as_bool)
    }

    /// A number that may be absent or `null`; the outer `None` is for anything else.
    #[must_use]
    pub fn whole<T: std::str::FromStr>(&self, name: &str) -> Option<Option<T>> {
        match self.given(name) {
            None => Some(None),
            Some(value) => value.as_whole().map(Some),
        }
    }

    /// A boolean that may be absent or `null`; the outer `None` is for anything else.
    #[must_use]
    pub fn bool(&self, name: &str) -> Option<Option<bool>> {
        match self.given(name) {
            None => Some(None),
            Some(value) => value.as_bool().map(Some),
        }
    }
}

/// Whether it might be nested too deeply for the reader, which calls itself.
#[must_use]
pub fn is_too_deep(text: &str) -> bool {
    text.matches(['[', '{']).count() > 500
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        let is_there = self.text.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += text.len();
        is_there.then_some(())
    }

    fn whole(&mut self) -> Option<Json<'a>> {
        self.skip_blanks();
        let value = self.value()?;
        self.skip_blanks();
        (self.at == self.text.len()).then_some(value)
    }

    fn value(&mut self) -> Option<Json<'a>> {
        let start = self.at;
        let value = match self.peek()? {
            b'n' => self.expect("null").map(|()| Value::Null)?,
            b't' => self.expect("true").map(|()| Value::Bool(true))?,
            b'f' => self.expect("false").map(|()| Value::Bool(false))?,
            b'"' => Value::Text(self.string()?),
            b'[' => Value::List(self.items(b']', Self::value)?),
            b'{' => Value::Object(self.items(b'}', |reader| {
                if reader.peek() != Some(b'"') {
                    return None;
                }
                let key = reader.string()?;
                reader.skip_blanks();
                reader.expect(":")?;
                reader.skip_blanks();
                Some((key, reader.value()?))
            })?),
            _ => Value::Number(self.number()?),
        };
        let text = &self.text[start..self.at];
        Some(Json { text, value })
    }

    fn items<T>(
        &mut self,
        end: u8,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_blanks();
        if self.peek() == Some(end) {
            self.at += 1;
            return Some(items);
        }
        loop {
            items.push(item(self)?);
            self.skip_blanks();
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => self.skip_blanks(),
                next if next == end => return Some(items),
                _ => return None,
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<&'a str> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(&self.text[start..self.at])
    }

    /// The inner `None` is for half of a surrogate pair.
    fn string(&mut self) -> Option<Option<String>> {
        self.at += 1;
        let mut units = Vec::new();
        loop {
            let next = self.text[self.at..].chars().next()?;
            self.at += next.len_utf8();
            match next {
                '"' => return Some(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escape()?),
                '\0'..' ' => return None,
                next => units.extend_from_slice(next.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let next = self.peek()?;
        self.at += 1;
        Some(match next {
            b'"' | b'\\' | b'/' => next.into(),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                self.at += 4;
                let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_number.then(|| u16::from_str_radix(digits, 16).ok())??
            }
            _ => return None,
        })
    }
}
