//! [`Kind`]: what a command does to the connection it is sent over. Pure.

use super::line::number;

/// What a command means for whoever uses the connection next, or waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One answer, and nothing else.
    Plain,
    /// One answer, which may take as long as the client said.
    Blocking,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// This database; `None` if it is not a number.
    Select(Option<u32>),
    /// Who the client is, which protocol it speaks, or how it is to be treated.
    Identity,
    Reset,
    /// As many answers as there are channels, and messages from then on.
    Subscribe,
    /// Everything that others do, from then on.
    Monitor,
    /// What comes after it cannot be counted, or nothing comes.
    Unfathomable,
}

/// Whether the answer to a command of these words may take as long as the client said.
pub(super) fn is_blocking<'a>(words: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut command = Command::new();
    words.for_each(|word| command.argument(word));
    command.kind() == Kind::Blocking
}

/// Longer than any word that matters here.
pub(super) const LONGEST: usize = 16;

/// Learns the arguments of a command, one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    kind: Kind,
    ask: Ask,
}

/// What has to be known of the arguments that are to come.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Name,
    Nothing,
    Database,
    /// CLIENT: which of its commands.
    OfClient,
    /// CLIENT REPLY: whether it is ON.
    Replies,
    /// XREAD: whether BLOCK comes before STREAMS. So many arguments are names first.
    Block(u8),
}

impl Command {
    pub(super) fn new() -> Self {
        Self { kind: Kind::Plain, ask: Ask::Name }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The next argument: all of it, if it is shorter than [`LONGEST`], or that much of it.
    pub(super) fn argument(&mut self, text: &[u8]) {
        let mut upper = [0; LONGEST];
        let upper = &mut upper[..text.len().min(LONGEST)];
        upper.copy_from_slice(&text[..upper.len()]);
        upper.make_ascii_uppercase();
        let upper = &*upper;
        match self.ask {
            Ask::Nothing => {}
            Ask::Name => (self.kind, self.ask) = named(upper),
            Ask::Database => {
                let database = number(upper).and_then(|number| number.try_into().ok());
                (self.kind, self.ask) = (Kind::Select(database), Ask::Nothing);
            }
            Ask::OfClient => {
                (self.kind, self.ask) = match upper {
                    b"REPLY" => (Kind::Plain, Ask::Replies),
                    b"SETNAME" | b"TRACKING" | b"CACHING" | b"NO-EVICT" | b"NO-TOUCH" => {
                        (Kind::Identity, Ask::Nothing)
                    }
                    _ => (Kind::Plain, Ask::Nothing),
                };
            }
            Ask::Replies => {
                self.ask = Ask::Nothing;
                if upper != b"ON" {
                    self.kind = Kind::Unfathomable;
                }
            }
            Ask::Block(0) if upper == b"STREAMS" => self.ask = Ask::Nothing,
            Ask::Block(0) if upper == b"BLOCK" => {
                (self.kind, self.ask) = (Kind::Blocking, Ask::Nothing);
            }
            Ask::Block(names) => self.ask = Ask::Block(names.saturating_sub(1)),
        }
    }
}

fn named(name: &[u8]) -> (Kind, Ask) {
    let kind = match name {
        b"SELECT" => return (Kind::Select(None), Ask::Database),
        b"CLIENT" => return (Kind::Plain, Ask::OfClient),
        b"XREAD" => return (Kind::Plain, Ask::Block(0)),
        // GROUP, its name, and the consumer's.
        b"XREADGROUP" => return (Kind::Plain, Ask::Block(3)),
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BLMPOP" => Kind::Blocking,
        b"BZPOPMIN" | b"BZPOPMAX" | b"BZMPOP" | b"WAIT" | b"WAITAOF" => Kind::Blocking,
        b"MULTI" => Kind::Multi,
        b"EXEC" => Kind::Exec,
        b"DISCARD" => Kind::Discard,
        b"WATCH" => Kind::Watch,
        b"UNWATCH" => Kind::Unwatch,
        b"AUTH" | b"HELLO" => Kind::Identity,
        // How a node of a cluster treats this client.
        b"READONLY" | b"READWRITE" | b"ASKING" => Kind::Identity,
        b"RESET" => Kind::Reset,
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => Kind::Subscribe,
        b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE" => Kind::Subscribe,
        b"MONITOR" => Kind::Monitor,
        // The server closes the connection, or makes a replica of the client.
        b"QUIT" | b"SYNC" | b"PSYNC" | b"REPLCONF" => Kind::Unfathomable,
        _ => Kind::Plain,
    };
    (kind, Ask::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Blocking, Identity, Plain, Select, Unfathomable};

    #[test]
    fn a_command_is_known_by_its_name_and_the_arguments_that_matter() {
        let table = [
            ("get a", Plain),
            ("select 3", Select(Some(3))),
            ("SELECT 99999999999", Select(None)),
            ("select x", Select(None)),
            ("client reply on", Plain),
            ("client REPLY skip", Unfathomable),
            ("client setname reply off", Identity),
            ("client list", Plain),
            ("readonly", Identity),
            ("blpop a 0", Blocking),
            ("xread count 1 block 0 streams a 0", Blocking),
            ("xread streams block 0", Plain),
            ("xreadgroup group block block streams a >", Plain),
            ("xreadgroup group g c noack block 5 streams a >", Blocking),
            ("set block streams", Plain),
        ];
        for (text, expected) in table {
            let mut command = Command::new();
            text.split(' ').for_each(|argument| command.argument(argument.as_bytes()));
            assert_eq!(command.kind(), expected, "{text}");
        }
    }
}
