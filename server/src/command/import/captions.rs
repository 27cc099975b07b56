//! Captions that lie beside pictures: `X.txt` beside `X.png`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// A side file beyond this is no caption.
pub(super) const CAPTION_BYTES_MAX: u64 = 8 << 10;

/// The caption of a medium from the text file of its name, if there is one.
pub(super) fn beside(file: &Path) -> Option<String> {
    let side = file.with_extension("txt");
    if side == file {
        return None;
    }
    // A pipe of that name would wait for ever.
    if !std::fs::symlink_metadata(&side).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(side).ok()?.take(CAPTION_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    caption(&bytes)
}

/// The whole text without the space around it; of a text whose other lines are translations
/// (`fr.utf8=…`), the first line.
pub(super) fn caption(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    let has_translations = text.lines().skip(1).any(is_translation);
    let caption = match has_translations {
        true => text.lines().next().unwrap_or_default().trim(),
        false if bytes.len() as u64 > CAPTION_BYTES_MAX => return None,
        false => text,
    };
    (!caption.is_empty()).then(|| caption.to_owned())
}

/// `fr.utf8=Un chat`, as Tux Paint writes its stamps' captions.
fn is_translation(line: &str) -> bool {
    line.split_once(".utf8=").is_some_and(|(language, _)| {
        (2..=16).contains(&language.len())
            && language.bytes().all(|b| b.is_ascii_alphanumeric() || b"_@-".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_the_text_or_its_first_line() {
        let of = |text: &str| caption(text.as_bytes());
        assert_eq!(
            of("A cat.\nfr.utf8=Un chat.\npt_BR.utf8=Um gato.\n").as_deref(),
            Some("A cat.")
        );
        assert_eq!(of("  A cat\nbeside a dog \n").as_deref(), Some("A cat\nbeside a dog"));
        assert_eq!(of("\u{feff}A cat").as_deref(), Some("A cat"));
        assert_eq!(of(" \n"), None);
        assert_eq!(of(&"x".repeat(9_000)), None, "a book is no caption");
    }
}
