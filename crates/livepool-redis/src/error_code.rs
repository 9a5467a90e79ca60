//! [`error_code`]: the word of an error that counts. Pure.

/// The word of an error that says what kind it is: the first one, or the first one of the error that
/// it wraps. Nowhere else does a word count, since the rest of an error repeats what a client sent:
/// ``ERR unknown command `READONLY` ``.
///
/// `text` may end within the error.
pub(super) fn error_code(text: &[u8]) -> &[u8] {
    // EXEC of Redis since 6.2, in multi.c.
    if let Some(cause) = text.strip_prefix(b"EXECABORT Transaction discarded because of: ") {
        return first_word(cause);
    }
    // Scripts before Redis 7: "ERR Error running script (call to f_1b93...): @user_script:1:
    // @user_script: 1: -READONLY You can't write against a read only replica." What a script says of
    // its own accord stands behind "user_script:1: ", without the @.
    if let Some(call) = text.strip_prefix(b"ERR Error running script (call to ")
        && let Some(end) = call.windows(3).position(|three| three == b"): ")
        && let Some(cause) = skip_script_positions(&call[end + 3..]).strip_prefix(b"-")
    {
        return first_word(cause);
    }
    // Said to clients that wait in a command, which are also told so by CLIENT UNBLOCK.
    if text.starts_with(ROLE_CHANGED) {
        return ROLE_CHANGED;
    }
    first_word(text)
}

/// How a server that follows another from now on ends the commands that wait.
pub(super) const ROLE_CHANGED: &[u8] = b"UNBLOCKED force";

pub(super) fn first_word(text: &[u8]) -> &[u8] {
    let end = text.iter().position(u8::is_ascii_whitespace);
    &text[..end.unwrap_or(text.len())]
}

/// What follows the places in a script at which an error passed: `@user_script:1: ` each.
fn skip_script_positions(mut text: &[u8]) -> &[u8] {
    while let Some(place) = text.strip_prefix(b"@user_script:") {
        let line = place.strip_prefix(b" ").unwrap_or(place);
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some(rest) = line[digits..].strip_prefix(b": ").filter(|_| digits > 0) else { break };
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_where_a_server_puts_it_and_nowhere_else() {
        for (said, expected) in [
            ("", ""),
            ("ERR", "ERR"),
            ("READONLY You can't write against a read only replica.", "READONLY"),
            ("EXECABORT Transaction discarded because of previous errors.", "EXECABORT"),
            ("EXECABORT Transaction discarded because of: READONLY You can't", "READONLY"),
            ("EXECABORT Transaction discarded because of: OOM READONLY", "OOM"),
            ("UNBLOCKED force unblock from blocking operation, instance", "UNBLOCKED force"),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", "UNBLOCKED"),
            // What a client sent, or a script says for itself.
            ("ERR unknown command `READONLY`, with args beginning with: `-READONLY`", "ERR"),
            ("ERR Error: @user_script: 1: -READONLY", "ERR"),
        ] {
            assert_eq!(error_code(said.as_bytes()), expected.as_bytes(), "{said}");
        }
        for (said, expected) in [
            ("@user_script:1: @user_script: 1: -READONLY You can't write", "READONLY"),
            ("@user_script: 12: -READONLY You can't write", "READONLY"),
            ("@user_script:1: @user_script: 1: -LOADING Redis is", "LOADING"),
            ("@user_script:1: user_script:1: -READONLY", "ERR"),
            ("@user_script:1: @user_script: 1: no key a: -READONLY b", "ERR"),
            ("@user_script:x: -READONLY", "ERR"),
            ("@user_script:1: READONLY", "ERR"),
        ] {
            let call = "call to f_1b936e3fe509bcbc9cd0664897bbe8fd0cac101b";
            let said = format!("ERR Error running script ({call}): {said}");
            assert_eq!(error_code(said.as_bytes()), expected.as_bytes(), "{said}");
        }
    }
}
