//! Why a connection ended: the one list of reasons, with what each means to the peer, to the
//! metrics and to the log.
//!
//! Invariant: a connection has exactly one reason, counted once and logged once, when its slot is
//! freed.

/// Why a connection ended.
///
/// Codes below 3000 are RFC 6455 (section 7.4.1); 3000–3499 ask the client to come back and
/// 3500–3999 not to, as the Centrifugo client libraries understand them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer ended the WebSocket with a close handshake.
    Normal,
    /// The peer ended its stream without a close handshake.
    Gone,
    /// The transport failed.
    Reset,
    /// There was no TLS with the peer, or it broke it.
    Tls,
    /// Plain HTTP was answered and the connection is done.
    Answered,
    /// The request was answered with a 4xx or 5xx status that ends the connection.
    Refused,
    /// There was no room for one more connection.
    Capacity,
    /// No complete request came in time.
    HandshakeTimeout,
    /// The peer broke the WebSocket protocol.
    Protocol,
    /// Text or a close reason was not UTF-8.
    InvalidPayload,
    /// A message was over the limit.
    TooBig,
    /// The daemon is ending.
    Shutdown,
    /// The send queue was full.
    Slow,
    /// The process takes more memory than it may, and the send queue was among the largest.
    Memory,
    /// Queued bytes made no progress in time.
    WriteTimeout,
    /// The token ran out.
    ConnectionExpired,
    /// The token of a subscription ran out that the client did not ask for.
    SubscriptionExpired,
    /// What a member missed cannot all be given, and it cannot be told in band.
    InsufficientState,
    /// The peer was silent for too long.
    NoPong,
    /// More messages than its rate allows.
    TooManyRequests,
    /// There is no token, or it is not good.
    InvalidToken,
    /// The request could not be understood or did not fit the connection.
    BadRequest,
    /// No command to connect came in time.
    Stale,
    /// A back end has closed it.
    ForceDisconnect,
    /// Another connection of the same user has taken its place, or holds it.
    ConnectionLimit,
    /// Too many rooms for one connection.
    ChannelLimit,
    /// The room is not open to this user, or the connection may not publish.
    PermissionDenied,
    /// What was asked for is not offered.
    NotAvailable,
    /// What numbers the publications of a cluster could not be asked in time.
    BrokerGone,
    /// The daemon failed.
    Internal,
}

/// How loud the log line of an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Happens all day.
    Ordinary,
    /// The peer did something wrong.
    Notable,
    /// An operator should look when it happens often.
    Warning,
}

impl CloseReason {
    /// Every reason, in the order of the metrics.
    pub const ALL: [Self; 30] = [
        Self::Normal,
        Self::Gone,
        Self::Reset,
        Self::Tls,
        Self::Answered,
        Self::Refused,
        Self::Capacity,
        Self::HandshakeTimeout,
        Self::Protocol,
        Self::InvalidPayload,
        Self::TooBig,
        Self::Shutdown,
        Self::Slow,
        Self::Memory,
        Self::WriteTimeout,
        Self::ConnectionExpired,
        Self::SubscriptionExpired,
        Self::InsufficientState,
        Self::NoPong,
        Self::TooManyRequests,
        Self::InvalidToken,
        Self::BadRequest,
        Self::Stale,
        Self::ForceDisconnect,
        Self::ConnectionLimit,
        Self::ChannelLimit,
        Self::PermissionDenied,
        Self::NotAvailable,
        Self::BrokerGone,
        Self::Internal,
    ];

    /// The close code sent to the peer; `None` where no close frame is sent.
    #[must_use]
    pub fn code(self) -> Option<u16> {
        Some(match self {
            Self::Normal
            | Self::Gone
            | Self::Reset
            | Self::Tls
            | Self::Answered
            | Self::Refused
            | Self::Capacity
            | Self::HandshakeTimeout => return None,
            Self::Protocol => 1002,
            Self::InvalidPayload => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Shutdown => 3001,
            Self::BrokerGone => 3004,
            Self::Slow | Self::Memory => 3008,
            Self::WriteTimeout => 3009,
            Self::ConnectionExpired => 3005,
            Self::SubscriptionExpired => 3006,
            Self::InsufficientState => 3010,
            Self::NoPong => 3012,
            Self::TooManyRequests => 3013,
            Self::InvalidToken => 3500,
            Self::BadRequest => 3501,
            Self::Stale => 3502,
            Self::ForceDisconnect => 3503,
            Self::ConnectionLimit => 3504,
            Self::ChannelLimit => 3505,
            Self::PermissionDenied => 3507,
            Self::NotAvailable => 3508,
        })
    }

    /// The words sent with the code.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Normal => "closed by peer",
            Self::Gone => "peer went away",
            Self::Reset => "connection reset",
            Self::Tls => "no TLS",
            Self::Answered => "request answered",
            Self::Refused => "request refused",
            Self::Capacity => "over capacity",
            Self::HandshakeTimeout => "handshake timeout",
            Self::Protocol => "protocol error",
            Self::InvalidPayload => "invalid UTF-8",
            Self::TooBig => "message too big",
            Self::Shutdown => "shutdown",
            Self::Slow | Self::Memory => "slow",
            Self::WriteTimeout => "write error",
            Self::ConnectionExpired => "connection expired",
            Self::SubscriptionExpired => "subscription expired",
            Self::InsufficientState => "insufficient state",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many requests",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::PermissionDenied => "permission denied",
            Self::NotAvailable => "not available",
            Self::BrokerGone | Self::Internal => "internal server error",
        }
    }

    /// The value of the `reason` label in metrics and of `reason=` in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Gone => "gone",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Capacity => "capacity",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Protocol => "protocol",
            Self::InvalidPayload => "invalid_payload",
            Self::TooBig => "too_big",
            Self::Shutdown => "shutdown",
            Self::Slow => "slow",
            Self::Memory => "memory",
            Self::WriteTimeout => "write_timeout",
            Self::ConnectionExpired => "connection_expired",
            Self::SubscriptionExpired => "subscription_expired",
            Self::InsufficientState => "insufficient_state",
            Self::NoPong => "no_pong",
            Self::TooManyRequests => "too_many_requests",
            Self::InvalidToken => "invalid_token",
            Self::BadRequest => "bad_request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force_disconnect",
            Self::ConnectionLimit => "connection_limit",
            Self::ChannelLimit => "channel_limit",
            Self::PermissionDenied => "permission_denied",
            Self::NotAvailable => "not_available",
            Self::BrokerGone => "broker_gone",
            Self::Internal => "internal",
        }
    }

    /// How loud its log line is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Normal
            | Self::Gone
            | Self::Reset
            | Self::Answered
            | Self::Shutdown
            | Self::ConnectionExpired
            | Self::SubscriptionExpired => Severity::Ordinary,
            Self::Tls
            | Self::Refused
            | Self::Capacity
            | Self::HandshakeTimeout
            | Self::Protocol
            | Self::InvalidPayload
            | Self::TooBig
            | Self::InsufficientState
            | Self::NoPong
            | Self::TooManyRequests
            | Self::InvalidToken
            | Self::BadRequest
            | Self::Stale
            | Self::NotAvailable
            | Self::ForceDisconnect
            | Self::ConnectionLimit
            | Self::ChannelLimit
            | Self::PermissionDenied => Severity::Notable,
            Self::Slow | Self::Memory | Self::WriteTimeout | Self::BrokerGone | Self::Internal => {
                Severity::Warning
            }
        }
    }

    /// The reason's place in [`CloseReason::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_label_and_code() {
        let mut labels = std::collections::HashSet::new();
        let mut codes = std::collections::HashSet::new();
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(labels.insert(reason.label()), "{reason:?}");
            assert!(!reason.text().is_empty() && reason.text().len() <= 123);
            // To the peer it is the same whose bound its queue has met.
            if let Some(code) = reason.code()
                && reason != CloseReason::Memory
            {
                assert!(codes.insert(code), "{reason:?}");
            }
        }
    }
}
