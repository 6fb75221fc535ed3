//! An agent: two producers, a reader that prints, one that counts network events on an async runtime, and a file.
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::thread;

use lapwing::event::{Category, Event, Source, SourceKind};
use lapwing::stream::{CategorySet, EventStream, ReadResult, Reader};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let path = std::env::temp_dir().join("lapwing-agent.ndjson");
    let mut file = BufWriter::new(File::create(&path)?);
    let stream = EventStream::new()?;
    let [console, copy, mut network] =
        ["console", "file", "network"].map(|name| stream.reader_from_oldest().named(name));
    network.set_categories(CategorySet::NONE.with(&Category::Network));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;

    let count = thread::scope(|scope| -> Result<u64> {
        let console = scope.spawn(|| forward(console, &mut stdout()));
        let file = scope.spawn(|| forward(copy, &mut file));
        let network = scope.spawn(move || runtime.block_on(count(network)));
        let responses = scope.spawn(|| produce(&stream, "response", Category::Network));
        let logs = scope.spawn(|| produce(&stream, "log", Category::Console));
        let produced = [responses, logs].map(|producer| producer.join().expect("no panic"));
        stream.close();
        let forwarded = [console, file].map(|sink| sink.join().expect("no panic"));
        produced.into_iter().chain(forwarded).collect::<Result<()>>()?;
        Ok(network.join().expect("no panic"))
    })?;
    eprintln!("{count} of {} events are network's; all are in {}", stream.seq(), path.display());
    Ok(())
}

fn produce(stream: &EventStream, name: &str, category: Category<'_>) -> Result<()> {
    (1..=5).try_for_each(|n| {
        let source = Source::new(SourceKind::Cdp).event("example").metadata("target_id", "T1");
        let event = Event::new(name, category.clone(), source).data_from(&serde_json::json!({ "n": n }))?;
        stream.publish(&event).map(drop).map_err(Into::into)
    })
}

fn forward(mut reader: Reader, out: &mut dyn Write) -> Result<()> {
    while let Ok(read) = reader.read() {
        match read {
            ReadResult::Envelope(mut envelope) => writeln!(out, "{}", str::from_utf8(envelope.json())?)?,
            ReadResult::Dropped { from, to } => writeln!(out, r#"{{"lost":[{from},{to}]}}"#)?,
        }
    }
    Ok(out.flush()?)
}

async fn count(mut reader: Reader) -> u64 {
    let mut count = 0;
    while let Ok(read) = reader.read_async().await {
        count += u64::from(read.envelope().is_some());
    }
    count
}
