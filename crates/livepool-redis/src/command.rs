//! [`CommandKind`]: what a command does to the connection it is sent over. Pure.

use super::line::number;

/// The effect of a command on the session, and the number of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandKind {
    /// A command with one answer and no lasting effect.
    Plain,
    /// A command whose one answer may take as long as the client said.
    Blocking,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// A change of database; `None` if the argument is not a number.
    Select(Option<u32>),
    /// A change of user, protocol, or how the server treats the client.
    Identity,
    Reset,
    /// A word to a node of a cluster about the next command, or the next transaction.
    Asking,
    /// A command with one answer for each channel, and messages from then on.
    Subscribe,
    /// A command after which the server reports what all its clients do.
    Monitor,
    /// A command after which answers cannot be counted, or none come.
    Uncountable,
}

/// Whether the answer to a command of these words may take as long as the client said.
pub(super) fn is_blocking<'a>(words: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut command = CommandClassifier::new();
    words.for_each(|word| command.push_argument(word));
    command.kind() == CommandKind::Blocking
}

/// The bytes of an argument that are looked at. The longest word that matters here has 13.
pub(super) const MAX_ARGUMENT: usize = 16;

/// Classifies a command by its arguments, taken one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommandClassifier {
    kind: CommandKind,
    next: NextArgument,
    is_of_replies: bool,
}

/// The meaning of the next argument.
#[derive(Debug, Clone, Copy)]
enum NextArgument {
    Name,
    Nothing,
    Database,
    /// The subcommand of CLIENT.
    ClientSubcommand,
    /// The mode of CLIENT REPLY.
    ReplyMode,
    /// The subcommand of SCRIPT.
    ScriptSubcommand,
    /// An option of XREAD, where BLOCK may come before STREAMS; so many names come first.
    Block(u8),
}

impl CommandClassifier {
    pub(super) fn new() -> Self {
        Self { kind: CommandKind::Plain, next: NextArgument::Name, is_of_replies: false }
    }

    /// Whether what is to come does not change what it is.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.next, NextArgument::Nothing)
    }

    /// Whether this is `CLIENT REPLY`, whatever it says.
    pub(super) fn is_of_replies(&self) -> bool {
        self.is_of_replies
    }

    pub(super) fn kind(&self) -> CommandKind {
        self.kind
    }

    /// Takes the next argument, cut to its first [`MAX_ARGUMENT`] bytes.
    pub(super) fn push_argument(&mut self, text: &[u8]) {
        // On the stack: this runs for each argument, and nothing may be allocated there.
        let mut upper = [0; MAX_ARGUMENT];
        let upper = &mut upper[..text.len().min(MAX_ARGUMENT)];
        upper.copy_from_slice(&text[..upper.len()]);
        upper.make_ascii_uppercase();
        let upper = &*upper;
        match self.next {
            NextArgument::Nothing => {}
            NextArgument::Name => (self.kind, self.next) = by_name(upper),
            NextArgument::Database => {
                let database = number(upper).and_then(|number| number.try_into().ok());
                (self.kind, self.next) = (CommandKind::Select(database), NextArgument::Nothing);
            }
            NextArgument::ClientSubcommand => {
                (self.kind, self.next) = match upper {
                    b"REPLY" => (CommandKind::Plain, NextArgument::ReplyMode),
                    // The next user would find the name, or get invalidations it did not ask for.
                    b"SETNAME" | b"TRACKING" | b"CACHING" | b"NO-EVICT" | b"NO-TOUCH" => {
                        (CommandKind::Identity, NextArgument::Nothing)
                    }
                    // Valkey's: answers that redirect, keys that have expired.
                    b"CAPA" | b"IMPORT-SOURCE" => (CommandKind::Identity, NextArgument::Nothing),
                    _ => (CommandKind::Plain, NextArgument::Nothing),
                };
            }
            NextArgument::ReplyMode => {
                self.next = NextArgument::Nothing;
                self.is_of_replies = true;
                // OFF and SKIP leave out answers, so the count would be wrong from here on.
                if upper != b"ON" {
                    self.kind = CommandKind::Uncountable;
                }
            }
            NextArgument::ScriptSubcommand => {
                // The next script would be run in a debugger.
                if upper == b"DEBUG" {
                    self.kind = CommandKind::Identity;
                }
                self.next = NextArgument::Nothing;
            }
            // Its name, and the consumer's.
            NextArgument::Block(0) if upper == b"GROUP" => self.next = NextArgument::Block(2),
            // Behind STREAMS come keys, one of which may be called BLOCK.
            NextArgument::Block(0) if upper == b"STREAMS" => self.next = NextArgument::Nothing,
            NextArgument::Block(0) if upper == b"BLOCK" => {
                (self.kind, self.next) = (CommandKind::Blocking, NextArgument::Nothing);
            }
            NextArgument::Block(names) => self.next = NextArgument::Block(names.saturating_sub(1)),
        }
    }
}

fn by_name(name: &[u8]) -> (CommandKind, NextArgument) {
    let kind = match name {
        b"SELECT" => return (CommandKind::Select(None), NextArgument::Database),
        b"CLIENT" => return (CommandKind::Plain, NextArgument::ClientSubcommand),
        b"SCRIPT" => return (CommandKind::Plain, NextArgument::ScriptSubcommand),
        b"XREAD" | b"XREADGROUP" => return (CommandKind::Plain, NextArgument::Block(0)),
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BLMPOP" => CommandKind::Blocking,
        b"BZPOPMIN" | b"BZPOPMAX" | b"BZMPOP" | b"WAIT" | b"WAITAOF" => CommandKind::Blocking,
        b"MULTI" => CommandKind::Multi,
        b"EXEC" => CommandKind::Exec,
        b"DISCARD" => CommandKind::Discard,
        b"WATCH" => CommandKind::Watch,
        b"UNWATCH" => CommandKind::Unwatch,
        b"AUTH" | b"HELLO" => CommandKind::Identity,
        // How a node of a cluster treats this client.
        b"READONLY" | b"READWRITE" => CommandKind::Identity,
        b"ASKING" => CommandKind::Asking,
        b"RESET" => CommandKind::Reset,
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => CommandKind::Subscribe,
        b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE" => CommandKind::Subscribe,
        b"MONITOR" => CommandKind::Monitor,
        // The server closes the connection, or makes a replica of the client.
        b"QUIT" | b"SYNC" | b"PSYNC" | b"REPLCONF" => CommandKind::Uncountable,
        _ => CommandKind::Plain,
    };
    (kind, NextArgument::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CommandKind::{Blocking, Identity, Plain, Select, Uncountable};

    #[test]
    fn a_command_is_known_by_its_name_and_the_arguments_that_matter() {
        let table = [
            ("get a", Plain),
            ("select 3", Select(Some(3))),
            ("SELECT 99999999999", Select(None)),
            ("select x", Select(None)),
            ("client reply on", Plain),
            ("client REPLY skip", Uncountable),
            ("client setname reply off", Identity),
            ("client list", Plain),
            ("readonly", Identity),
            ("blpop a 0", Blocking),
            ("xread count 1 block 0 streams a 0", Blocking),
            ("xread streams block 0", Plain),
            ("xreadgroup group block block streams a >", Plain),
            ("xreadgroup group g c noack block 5 streams a >", Blocking),
            ("xreadgroup block 0 group g c streams a >", Blocking),
            ("xreadgroup count 1 block 0 group g c streams a >", Blocking),
            ("xreadgroup count 1 group streams block noack streams block >", Plain),
            ("set block streams", Plain),
            ("client capa redirect", Identity),
            ("client import-source on", Identity),
            ("script debug yes", Identity),
            ("script load debug", Plain),
        ];
        for (text, expected) in table {
            let mut command = CommandClassifier::new();
            text.split(' ').for_each(|argument| command.push_argument(argument.as_bytes()));
            assert_eq!(command.kind(), expected, "{text}");
        }
    }
}
