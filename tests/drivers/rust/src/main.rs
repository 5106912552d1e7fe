//! tokio-postgres through the proxy: what its users do, checked; prints "done".

use bytes::Bytes;
use futures_util::{future, pin_mut, stream, SinkExt, StreamExt, TryStreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_postgres::{error::SqlState, AsyncMessage, Client, Error, IsolationLevel, NoTls};

type Checked = Result<(), Error>;

async fn connect(url: &str) -> Result<(Client, mpsc::UnboundedReceiver<String>), Error> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (heard, hearing) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(told) = message {
                let _ = heard.send(told.payload().to_string());
            }
        }
    });
    Ok((client, hearing))
}

fn code<T>(result: Result<T, Error>) -> SqlState {
    result.err().expect("it must fail").code().expect("an error of the server").clone()
}

async fn prepared(client: &Client) -> Checked {
    let insert = client.prepare("INSERT INTO account (email, tags) VALUES ($1, $2) RETURNING id").await?;
    for n in 0..20 {
        let row = client.query_one(&insert, &[&format!("p{n}@rust"), &vec!["a", "b"]]).await?;
        assert!(row.get::<_, i64>(0) > 0);
    }
    let changed = client.execute("UPDATE account SET name = $1 WHERE email LIKE 'p1%@rust'", &[&"x"]).await?;
    assert_eq!(changed, 11);
    Ok(())
}

async fn pipelined(client: &Client) -> Checked {
    let insert = client.prepare("INSERT INTO account (email) VALUES ($1)").await?;
    let emails: Vec<String> = (0..100).map(|n| format!("b{n}@rust")).collect();
    let counts = future::try_join_all(emails.iter().map(|email| {
        let insert = &insert;
        async move { client.execute(insert, &[email]).await }
    }))
    .await?;
    assert_eq!(counts.iter().sum::<u64>(), 100);
    let divide = client.prepare("SELECT 1 / $1::int").await?;
    let (good, bad, again) = future::join3(
        client.query_one(&divide, &[&1i32]),
        client.query_one(&divide, &[&0i32]),
        client.query_one(&divide, &[&1i32]),
    )
    .await;
    assert_eq!((good?.get::<_, i32>(0), again?.get::<_, i32>(0)), (1, 1));
    assert_eq!(code(bad), SqlState::DIVISION_BY_ZERO);
    Ok(())
}

async fn transactions(client: &mut Client) -> Checked {
    let mut outer = client.build_transaction().isolation_level(IsolationLevel::Serializable).start().await?;
    let id: i64 = outer.query_one("INSERT INTO account (email) VALUES ('t@rust') RETURNING id", &[]).await?.get(0);
    let inner = outer.savepoint("here").await?;
    assert_eq!(code(inner.execute("INSERT INTO entry VALUES ($1, 1, 0)", &[&id]).await), SqlState::CHECK_VIOLATION);
    inner.rollback().await?;
    outer.execute("INSERT INTO entry VALUES ($1, 1, 5)", &[&id]).await?;
    outer.commit().await?;
    let rolled = client.transaction().await?;
    rolled.execute("DELETE FROM entry", &[]).await?;
    rolled.rollback().await?;
    assert_eq!(client.query_one("SELECT count(*) FROM entry", &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}

async fn copies(client: &Client) -> Checked {
    let sink = client.copy_in("COPY account (email) FROM STDIN").await?;
    pin_mut!(sink);
    for n in 0..500 {
        sink.feed(Bytes::from(format!("c{n}@rust\n"))).await?;
    }
    assert_eq!(sink.finish().await?, 500);
    {
        let abandoned = client.copy_in::<_, Bytes>("COPY account (email) FROM STDIN").await?;
        drop(abandoned); // sends CopyFail
    }
    let out = client.copy_out("COPY (SELECT email FROM account WHERE email LIKE 'c%@rust') TO STDOUT").await?;
    let size = out.try_fold(0, |sum, part| async move { Ok(sum + part.iter().filter(|b| **b == b'\n').count()) });
    assert_eq!(size.await?, 500);
    Ok(())
}

async fn cursors(client: &mut Client) -> Checked {
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT id FROM account ORDER BY id", &[]).await?;
    assert_eq!(transaction.query_portal(&portal, 10).await?.len(), 10);
    assert_eq!(transaction.query_portal(&portal, 20).await?.len(), 20);
    assert_eq!(transaction.query_portal(&portal, 0).await?.len(), 591);
    transaction.rollback().await
}

async fn cancels(client: &Client, other: &Client) -> Checked {
    let token = client.cancel_token();
    let seen = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)' AND state = 'active'";
    let cancelling = async {
        while other.query_one(seen, &[]).await?.get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        token.cancel_query(NoTls).await
    };
    let (cancelled, sent) = future::join(client.batch_execute("SELECT pg_sleep(61)"), cancelling).await;
    sent?;
    assert_eq!(code(cancelled), SqlState::QUERY_CANCELED);
    assert_eq!(client.query_one("SELECT 7", &[]).await?.get::<_, i32>(0), 7);
    Ok(())
}

async fn failures(client: &Client) -> Checked {
    let failed = client.execute("/* ü */ UPDATE account SET nope = $1", &[&1i32]).await.unwrap_err();
    let told = failed.as_db_error().expect("an error of the server");
    assert_eq!(*told.code(), SqlState::UNDEFINED_COLUMN);
    assert_eq!(told.position(), Some(&tokio_postgres::error::ErrorPosition::Original(28)));
    let twice = client.execute("INSERT INTO account (email) VALUES ('t@rust')", &[]).await;
    assert_eq!(code(twice), SqlState::UNIQUE_VIOLATION);
    Ok(())
}

async fn listens(client: &Client, other: &Client, hearing: &mut mpsc::UnboundedReceiver<String>) -> Checked {
    client.batch_execute("LISTEN news").await?;
    other.execute("SELECT pg_notify('news', $1)", &[&"hello"]).await?;
    assert_eq!(hearing.recv().await.as_deref(), Some("hello"));
    Ok(())
}

async fn reconnects(url: &str) -> Checked {
    for n in 0..10 {
        let (again, _) = connect(url).await?;
        assert_eq!(again.query_one("SELECT $1::int", &[&n]).await?.get::<_, i32>(0), n);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Checked {
    let url = std::env::args().nth(1).expect("the URL");
    let (mut client, mut hearing) = connect(&url).await?;
    let (other, _) = connect(&url).await?;
    prepared(&client).await?;
    pipelined(&client).await?;
    transactions(&mut client).await?;
    copies(&client).await?;
    cursors(&mut client).await?;
    cancels(&client, &other).await?;
    failures(&client).await?;
    listens(&client, &other, &mut hearing).await?;
    reconnects(&url).await?;
    println!("done");
    Ok(())
}
