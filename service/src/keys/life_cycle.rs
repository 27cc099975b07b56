//! The life of keys over a real lake.

use std::sync::Arc;

use lakebed_core::{DatabaseName, Limits, ManualClock, Principal};
use lakebed_storage::{Lake, LakeOptions};

use super::*;
use crate::ServiceOptions;

struct Fixture {
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    service: Arc<Service>,
    lake: Arc<Lake>,
}

async fn fixture(allow_anonymous: bool) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let lake = Lake::open(LakeOptions::at(folder.path().display().to_string())).await.unwrap();
    let options = ServiceOptions {
        lake: Arc::clone(&lake),
        limits: Limits::default(),
        clock: clock.clone(),
        allow_anonymous,
        peer_tls: None,
        resident: Default::default(),
        secrets_key_file: None,
    };
    let service = Service::open(options).await.unwrap();
    Fixture { _folder: folder, clock, service, lake }
}

fn as_role(role: Role) -> RequestContext {
    RequestContext {
        principal: Principal { key_id: "tester".to_owned(), role },
        request_id: "r-1".to_owned(),
        database: DatabaseName::default_database(),
        freshness: lakebed_core::Freshness::default(),
    }
}

async fn refusal(service: &Service, secret: Option<&str>) -> String {
    let error = service.authenticate(secret).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    error.message().to_owned()
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked() {
    let Fixture { service, .. } = &fixture(false).await;
    let admin = as_role(Role::Admin);
    let key = service.create_key(&admin, "ci", Role::Write, None).await.unwrap();
    let principal = service.authenticate(Some(&key.secret)).await.unwrap();
    assert_eq!(principal, Principal { key_id: key.id.clone(), role: Role::Write });
    let forged = format!("lb_{}_{}", key.id, "0".repeat(64));
    assert!(refusal(service, Some(&forged)).await.contains("not known"));

    service.revoke_key(&admin, &key.id).await.unwrap();
    assert!(refusal(service, Some(&key.secret)).await.contains("revoked"));
    // Why a key is refused is for its holder alone.
    assert!(refusal(service, Some(&forged)).await.contains("not known"));
    service.revoke_key(&admin, &key.id).await.unwrap();
    let listed = service.list_keys(&admin).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].role), ("ci", Role::Write));
    assert_eq!(listed[0].revoked_at_ms, Some(1_000_000));
}

#[tokio::test]
async fn a_key_that_was_asked_for_in_vain_works_once_it_is_made() {
    let Fixture { service, lake, .. } = &fixture(false).await;
    let key = NewKey::generate("abc".to_owned()).unwrap();
    assert!(refusal(service, Some(&key.secret)).await.contains("not known"));
    let record = KeyRecord::new("abc", "x", Role::Read, &key.secret, 0);
    lake.system().put(&path("abc"), encode(&record).unwrap()).await.unwrap();
    // Made elsewhere: known within the time that records are kept for.
    assert!(service.authenticate(Some(&key.secret)).await.is_err());
    service.keys.forget("abc");
    assert_eq!(service.authenticate(Some(&key.secret)).await.unwrap().role, Role::Read);
}

#[tokio::test]
async fn a_key_expires_at_its_time() {
    let Fixture { service, clock, .. } = &fixture(false).await;
    let admin = as_role(Role::Admin);
    let expired = service.create_key(&admin, "x", Role::Read, Some(1_000_000)).await;
    assert_eq!(expired.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let key = service.create_key(&admin, "x", Role::Read, Some(1_000_100)).await.unwrap();
    clock.advance_ms(99);
    service.authenticate(Some(&key.secret)).await.unwrap();
    clock.advance_ms(1);
    assert!(refusal(service, Some(&key.secret)).await.contains("expired"));
}

#[tokio::test]
async fn only_admins_touch_keys() {
    let Fixture { service, .. } = &fixture(false).await;
    let key = service.create_key(&as_role(Role::Admin), "x", Role::Read, None).await.unwrap();
    for role in [Role::Write, Role::Read] {
        let ctx = as_role(role);
        let made = service.create_key(&ctx, "x", Role::Read, None).await.unwrap_err();
        let listed = service.list_keys(&ctx).await.unwrap_err();
        let revoked = service.revoke_key(&ctx, &key.id).await.unwrap_err();
        for error in [made, listed, revoked] {
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.message().contains(role.name()), "{error}");
        }
    }
    service.authenticate(Some(&key.secret)).await.unwrap();
    for id in ["nope", "../lake", "", "A"] {
        let error = service.revoke_key(&as_role(Role::Admin), id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{id}");
    }
}

#[tokio::test]
async fn the_operator_replaces_the_admin_key() {
    let Fixture { service, .. } = &fixture(false).await;
    assert!(!service.has_admin_key().await.unwrap());
    let first = NewKey::generate_admin().unwrap();
    service.set_admin_key(&first.secret).await.unwrap();
    assert!(service.has_admin_key().await.unwrap());
    assert_eq!(service.authenticate(Some(&first.secret)).await.unwrap().role, Role::Admin);
    // Any text that the operator chose, also one that looks like another key's.
    for chosen in ["correct-horse", "lb_abc_battery", "lb_admin_x"] {
        service.set_admin_key(chosen).await.unwrap();
        let principal = service.authenticate(Some(chosen)).await.unwrap();
        assert_eq!((principal.key_id.as_str(), principal.role), (ADMIN_KEY_ID, Role::Admin));
        assert!(refusal(service, Some(&first.secret)).await.contains("not known"));
    }
    let error = service.set_admin_key("short").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn no_key_is_an_admin_where_everybody_is_let_in() {
    let closed = fixture(false).await;
    for none in [None, Some("")] {
        assert!(refusal(&closed.service, none).await.contains("no API key"));
    }
    let Fixture { service, .. } = &fixture(true).await;
    for anybody in [None, Some(""), Some("anything"), Some("lb_a_b")] {
        assert_eq!(service.authenticate(anybody).await.unwrap(), Principal::anonymous());
    }
    let key = service.create_key(&as_role(Role::Admin), "x", Role::Read, None).await.unwrap();
    assert_eq!(service.authenticate(Some(&key.secret)).await.unwrap().role, Role::Read);
}

#[tokio::test]
async fn changes_are_in_the_audit_log_after_shutdown() {
    let Fixture { service, lake, .. } = &fixture(false).await;
    let admin = as_role(Role::Admin);
    let key = service.create_key(&admin, "ci", Role::Write, None).await.unwrap();
    let _ = service.revoke_key(&admin, "nope").await;
    service.shutdown(tokio::time::Instant::now()).await;
    service.shutdown(tokio::time::Instant::now()).await;
    let refused = service.list_keys(&admin).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);

    let mut text = String::new();
    for object in lake.system().list("audit/").await.unwrap() {
        let bytes = lake.system().get(&object.path).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    assert!(!text.contains(&key.secret));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["verb"], "create_key");
    assert_eq!(lines[0]["subject"], key.id);
    assert_eq!(lines[0]["time"], "1970-01-01T00:16:40.000Z");
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&"ok".into(), &"not_found".into()));
    assert_eq!(lines[1]["key_id"], "tester");
}
